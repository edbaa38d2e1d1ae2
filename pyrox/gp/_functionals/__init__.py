"""Numbers that are made of functions."""
