"""Hyperparameters from data: inside NumPyro models, and by optimisation."""
