"""Measures durable_sync against the limit of the database: `python3 dev.py bench`."""
