"""Checkpoints that are whole, loaded strictly, from which a killed run goes on as if nothing had happened."""
