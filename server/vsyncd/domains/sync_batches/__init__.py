"""The daily synchronization batches: intake of CIDs, claims with leases, reports, and status transitions."""
