"""The one door to linear algebra: factor once, solve for all right-hand sides."""
