"""The gradient of the posterior mean in PyMC, compiled by PyTensor."""

from collections.abc import Callable

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt


def mean_gradient(
    X: np.ndarray, y: np.ndarray, variance: float, lengthscale: float, noise_var: float
) -> Callable[[np.ndarray], np.ndarray]:
    """A function of points (M, D) to the gradients there, (M, D)."""
    with pm.Model():
        cov = variance * pm.gp.cov.Matern52(X.shape[1], ls=lengthscale)
        gp = pm.gp.Marginal(cov_func=cov)
        gp.marginal_likelihood("y", X=X, y=y, sigma=noise_var**0.5)
        points = pt.matrix("points")
        # What `gp.predict` evaluates; there is no public name for the graph.
        mean, _ = gp._predict_at(points, diag=True)
        return pytensor.function([points], pt.grad(mean.sum(), points))
