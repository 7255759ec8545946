"""What every package may use: the request context, errors, validation, paging and ids. Imports nothing of vsyncd."""
