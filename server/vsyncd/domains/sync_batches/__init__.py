"""The daily synchronisation batches: intake, claims under a lease, reports, and what a batch's state allows."""
