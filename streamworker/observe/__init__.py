"""What happens, as typed events, and who listens: the core emits, logs and metrics subscribe."""
