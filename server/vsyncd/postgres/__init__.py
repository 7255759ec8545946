"""Reads, transactions and mutations on a PostgreSQL primary and its replicas. From the top down:

mutations        Mutations: one transaction with its effect, audit entry and request id
database         Database: reads and transactions; retries, and tries servers in the order of the Router (routing)
snapshots        SnapshotReader: long reads in a snapshot, each on a dedicated connection
database_server  DatabaseServer: a server's pool, circuit breaker and status
monitor          Monitor: updates the status (replication) and makes the circuit breaker's trials
pool             Pool: the server's connections, with a bounded queue
connection       Connector and Connection: opening connections with vsyncd's session settings
session          Session and Transaction: named queries (queries) on a connection

consistency has the read modes and consistency tokens, error_mapping interprets errors.
"""
