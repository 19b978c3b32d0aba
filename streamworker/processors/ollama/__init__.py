"""The built-in processor `ollama`: descriptions of files by a vision model, judged, embedded, and searched. Nothing is loaded with it."""
