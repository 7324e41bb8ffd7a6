"""Between a user's dataset and the model: sample identity, labels, loading."""
