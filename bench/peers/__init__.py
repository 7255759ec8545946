"""What vsyncd is measured against."""
