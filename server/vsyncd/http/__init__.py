"""The HTTP server for probes and metrics."""
