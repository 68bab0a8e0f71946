"""ONE DOOR to SQLite and PostgreSQL: addresses, connections that write or only read, translated errors, leases."""
