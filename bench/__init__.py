"""Benchmarks: `make bench`, or `python -m bench NAME ...`. Ratios are taken side by side in one run."""
