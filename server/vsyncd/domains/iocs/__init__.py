"""IOCs: the indicators of compromise of tenants."""
