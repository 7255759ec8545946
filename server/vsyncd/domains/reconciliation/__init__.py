"""Reconciliation with the directory: VSyncs, their verifications, differences, and the events of the CID set."""
