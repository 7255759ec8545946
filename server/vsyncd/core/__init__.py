"""Request context, errors, validation, paging, ids and fingerprints. Every package may import these modules."""
