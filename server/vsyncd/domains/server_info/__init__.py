"""The version, limits and enabled features of this server."""
