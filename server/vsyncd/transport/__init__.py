"""The gRPC server: interceptors, TLS, error details, reflection and draining."""
