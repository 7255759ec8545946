"""Background jobs: runner, ledger, maintenance, migrations at start, scheduled backups."""
