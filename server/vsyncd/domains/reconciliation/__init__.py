"""Reconciliation with the directory: VSyncs, their verification, differences, and the history of the set."""
