"""Benchmarks: `make bench`, or `python -m bench NAME ...`. Ratios compare both sides within one run."""
