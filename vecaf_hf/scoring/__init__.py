"""What the current model thinks of each sample of the pool."""
