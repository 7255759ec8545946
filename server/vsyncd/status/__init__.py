"""GetStatus: what an operator asks first, from this process and from the database."""
