"""Covariance functions: the abstract kernel and its algebra, one family a file."""
