"""Flow tests: one file a promise, on real servers and real worker processes."""
