"""How fast it is, beside what the server itself can do: `python -m tests.benchmarks`. Never part of a test's verdict."""
