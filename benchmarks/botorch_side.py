"""The tasks in BoTorch: `draw_matheron_paths`."""

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from botorch.models import SingleTaskGP
from botorch.sampling.pathwise import draw_kernel_feature_paths, draw_matheron_paths
from botorch.sampling.pathwise.features.generators import gen_kernel_features
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel

from .cases import JITTER, LENGTHSCALE, NOISE_VAR, Case, data

if TYPE_CHECKING:  # a worker that times BoTorch loads nothing of ours
    from .accuracy_problem import Problem


def prepare(case: Case, graph: bool = False) -> Callable[[], object]:
    X, y, X_query = map(torch.as_tensor, data(case))
    model = _model(X, y, _kernel(X), NOISE_VAR + JITTER)
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


def _model(
    X: torch.Tensor, y: torch.Tensor, kernel: ScaleKernel, noise_var: float
) -> SingleTaskGP:
    noise = torch.full_like(y[:, None], noise_var)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises against float32
        model = SingleTaskGP(
            X, y[:, None], noise, covar_module=kernel, outcome_transform=None
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


def gram_squares(
    nu: float | None,
    lengthscale: float,
    points: np.ndarray,
    n_columns: int,
    n_draws: int,
) -> np.ndarray:
    """The mean square of phi phi^T - K for each draw of the features; without a nu, of
    an RBF."""
    kernel = _base_kernel(nu, lengthscale)
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
    return np.array(squares)


def _base_kernel(nu: float | None, lengthscale: float) -> MaternKernel | RBFKernel:
    kernel = (MaternKernel(nu=nu) if nu else RBFKernel()).double()
    kernel.lengthscale = lengthscale
    return kernel


def features(problem: "Problem", n_columns: int, seed: int) -> np.ndarray:
    """What `draw_kernel_feature_paths` multiplies with its weights."""
    torch.manual_seed(seed)
    kernel = _base_kernel(problem.nu, problem.lengthscale)
    sizes = {"num_inputs": problem.in_size, "num_outputs": n_columns}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gen_kernel_features(kernel, **sizes)(
            torch.as_tensor(problem.inputs)
        ).numpy()


def paths(
    problem: "Problem", n_columns: int, n_paths: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The features of drawn functions, taken from them, and their values at the test
    points."""
    torch.manual_seed(seed)
    inputs, y = torch.as_tensor(problem.inputs), torch.as_tensor(problem.y)
    kernel = ScaleKernel(_base_kernel(problem.nu, problem.lengthscale)).double()
    kernel.outputscale = 1.0
    model = _model(inputs[: problem.n], y, kernel, problem.noise_var)
    sampler = functools.partial(draw_kernel_feature_paths, num_features=n_columns)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = draw_matheron_paths(model, torch.Size([n_paths]), prior_sampler=sampler)
        phi = drawn["prior_paths"].feature_map(inputs)
        return phi.numpy(), drawn(inputs[problem.n :]).numpy()
