"""Authentication and authorization of callers, and the files that configure them."""
