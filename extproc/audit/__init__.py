"""Audit rows in one PostgreSQL for all replicas, and the tables and queries for it and for SQLite.

shipper     a thread: the journal's rows -> `target`, the database, by `write`
tables      as SQLAlchemy sees them; `migrations` makes them, `partitions` those of a week
database    connections, also for those who read
"""
