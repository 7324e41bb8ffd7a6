"""Captions, and the frozen encoders that turn them, and prompts, into embeddings."""
