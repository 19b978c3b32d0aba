"""Seeded bugs: each must make a test fail, or the tests are too weak."""
