"""The files that payloads name, for every built-in processor: one way to open them, one set of limits, one way to see them as pictures."""
