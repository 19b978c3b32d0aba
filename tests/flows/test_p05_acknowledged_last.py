"""P5: an entry is acknowledged last, after the terminal row and the terminal event."""
