"""The ground: checks and their sentences, hyperparameters, their priors."""
