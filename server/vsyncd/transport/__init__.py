"""From the wire to a service's method and back: the server, its interceptors, and the details of errors."""
