"""The tests: unit (no servers), flows (one file a promise), process (real processes and signals), chaos, bench."""
