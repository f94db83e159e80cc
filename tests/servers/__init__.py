"""Real, throw-away servers for the tests, and a proxy that breaks the way to them."""
