"""Lines for people: events, results of ops, long lists."""
