"""Published networks and shared blocks as plain modules: no Lightning, no data."""
