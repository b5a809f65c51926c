"""Measures durable_sync: `python3 dev.py bench`."""
