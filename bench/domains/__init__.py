"""The benchmarks of domains, one module each, with a function `run`."""
