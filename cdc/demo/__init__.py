"""The demo: a private PostgreSQL, a shop that sells, the daemon on it, and the proof that the books are right."""
