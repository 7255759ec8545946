"""Notes: short texts that are written once."""
