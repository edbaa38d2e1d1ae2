"""GPyTorch's half of `benchmarks.large gpytorch`: its conjugate gradients, its defaults
but for the tolerance."""

from collections.abc import Callable

import gpytorch
import numpy as np
import torch
from linear_operator.operators import DiagLinearOperator

from .large_data import Split


def prepare(split: Split, B: np.ndarray, tolerance: float) -> Callable[[], np.ndarray]:
    """A call that solves for all columns, the preconditioner and all."""
    in_size = split.X.shape[1]
    kernel = gpytorch.kernels.ScaleKernel(
        gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=in_size)
    )
    kernel.outputscale = float(split.variance)
    kernel.base_kernel.lengthscale = torch.as_tensor(split.lengthscale)[None]
    X, sides = torch.as_tensor(split.X), torch.as_tensor(B)
    noise = torch.full((len(X),), float(split.noise_var))

    def call() -> np.ndarray:
        with (
            torch.no_grad(),
            gpytorch.settings.max_cholesky_size(1),
            gpytorch.settings.cg_tolerance(tolerance),
            gpytorch.settings.max_cg_iterations(1000),
        ):
            covariance = kernel(X) + DiagLinearOperator(noise)
            return covariance.solve(sides).numpy()

    return call
