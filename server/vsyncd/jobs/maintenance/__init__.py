"""What keeps the tables in shape: partitions ahead, retention, old answers of imports."""
