"""Creates future partitions, and drops expired partitions and stored answers of old imports."""
