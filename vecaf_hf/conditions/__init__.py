"""Conditions: groups of samples on which a model fails and that no label marks, found and named."""
