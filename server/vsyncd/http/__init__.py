"""The HTTP servers for probes and metrics."""
