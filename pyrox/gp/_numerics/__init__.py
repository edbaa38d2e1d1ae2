"""Arrays in, arrays out, and no word of Gaussian processes."""
