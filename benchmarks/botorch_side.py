"""The tasks in BoTorch: `draw_matheron_paths`."""

import functools
import warnings
from collections.abc import Callable

import numpy as np
import torch
from botorch.models import SingleTaskGP
from botorch.sampling.pathwise import draw_kernel_feature_paths, draw_matheron_paths
from botorch.sampling.pathwise.features.generators import gen_kernel_features
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

from .cases import JITTER, LENGTHSCALE, NOISE_VAR, Case, data


def prepare(case: Case, graph: bool = False) -> Callable[[], object]:
    X, y, X_query = map(torch.as_tensor, data(case))
    model = _model(X, y)
    prior_sampler = functools.partial(
        draw_kernel_feature_paths, num_features=case.n_features
    )

    def draw():
        shape = torch.Size([case.n_paths])
        return draw_matheron_paths(model, shape, prior_sampler=prior_sampler)

    with torch.no_grad():  # a second backward pass would miss the first one's graph
        paths = draw()

    def evaluate():
        with torch.set_grad_enabled(graph):
            return paths(X_query)

    def gradient_sum():
        points = X_query.clone().requires_grad_(True)
        paths(points).sum().backward()
        return points.grad

    def draw_anew():
        # BoTorch would otherwise keep the factor of the last draw, as ours is kept.
        with torch.no_grad():
            return draw()

    tasks = {"evaluate": evaluate, "gradient_sum": gradient_sum, "draw": draw_anew}
    return tasks[case.task]


def _kernel(X: torch.Tensor) -> ScaleKernel:
    kernel = ScaleKernel(MaternKernel(nu=2.5)).to(X)
    kernel.outputscale, kernel.base_kernel.lengthscale = 1.0, LENGTHSCALE
    return kernel


def _model(X: torch.Tensor, y: torch.Tensor) -> SingleTaskGP:
    noise = torch.full_like(y[:, None], NOISE_VAR + JITTER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises against float32
        model = SingleTaskGP(
            X, y[:, None], noise, covar_module=_kernel(X), outcome_transform=None
        )
    return model.eval()


def feature_error(case: Case) -> float:
    X = torch.as_tensor(data(case)[0])[:500]
    kernel = _kernel(X)
    features = gen_kernel_features(
        kernel, num_inputs=case.in_size, num_outputs=case.n_features
    )
    with torch.no_grad():
        phi, exact = features(X), kernel(X, X).to_dense()
        return float(((phi @ phi.T - exact) ** 2).mean().sqrt())


def gram_error(
    nu: float | None,
    lengthscale: float,
    points: np.ndarray,
    n_columns: int,
    n_draws: int,
) -> float:
    """RMS of phi phi^T - K over draws of the features; without a nu, of an RBF."""
    kernel = (MaternKernel(nu=nu) if nu else RBFKernel()).double()
    kernel.lengthscale = lengthscale
    X = torch.as_tensor(points)
    torch.manual_seed(X.shape[1])
    squares = []
    for _ in range(n_draws):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            phi = gen_kernel_features(
                kernel, num_inputs=X.shape[1], num_outputs=n_columns
            )(X)
            squares.append(float(((phi @ phi.T - kernel(X).to_dense()) ** 2).mean()))
    return float(np.sqrt(np.mean(squares)))
