"""PostgreSQL: connections, transactions, named queries, and what a failure of the database means."""
