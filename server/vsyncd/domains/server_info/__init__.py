"""About the server itself: its version, its limits, what is on."""
