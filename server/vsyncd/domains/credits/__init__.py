"""Credits: the accounts of tenants, with a ledger and reservations."""
