"""Reads of the store: over a local socket while the daemon runs, from the file while it is down."""
