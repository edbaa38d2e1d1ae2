"""What functions are for: where to measure next."""
