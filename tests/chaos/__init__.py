"""The adversary: a proxy that breaks connections, observers outside the product, a nemesis, and the checker of what they saw."""
