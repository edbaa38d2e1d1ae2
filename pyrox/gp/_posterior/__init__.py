"""Gaussian processes before and after data: exact ones, sparse ones, their moments."""
