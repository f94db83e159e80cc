"""Cases of rules: text files of changes and the entries that come of them, run by `ledgertail rules test` and by pytest."""
