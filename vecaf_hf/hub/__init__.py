"""Pushes to the Hub that lose nothing."""
