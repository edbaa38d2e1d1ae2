"""BoTorch's half of `benchmarks.thompson`: paths minimised by its own optimiser, and
loops of Bayesian optimisation as its manual writes them."""

import os
import time
import warnings

import numpy as np
import torch
from botorch.acquisition.logei import qLogExpectedImprovement
from botorch.acquisition.utils import get_optimal_samples
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.deterministic import MatheronPathModel
from botorch.models.transforms import Normalize, Standardize
from botorch.optim import optimize_acqf
from botorch.utils.sampling import optimize_posterior_samples
from gpytorch.kernels import MaternKernel, ScaleKernel
from gpytorch.means import ZeroMean
from gpytorch.mlls import ExactMarginalLogLikelihood

from .path_problem import PathArrays


def fixed_model(
    X: np.ndarray,
    y: np.ndarray,
    variance: float,
    lengthscale: np.ndarray,
    noise_var: float,
) -> SingleTaskGP:
    """A Matern-5/2 process with these hyperparameters and no mean, nothing scaled."""
    inputs, targets = torch.tensor(X), torch.tensor(y)[:, None]
    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=X.shape[1])).double()
    kernel.outputscale = torch.tensor(float(variance), dtype=torch.float64)
    kernel.base_kernel.lengthscale = torch.tensor(np.array(lengthscale))
    model = SingleTaskGP(
        inputs,
        targets,
        torch.full_like(targets, noise_var),
        covar_module=kernel,
        mean_module=ZeroMean(),
        outcome_transform=None,
    )
    return model.eval()


def own_paths(model: SingleTaskGP, n_paths: int, seed: int) -> MatheronPathModel:
    """Paths that BoTorch draws, 1024 features."""
    with torch.no_grad():
        return MatheronPathModel(
            model, torch.Size([n_paths]), ensemble_as_batch=True, seed=seed
        )


def taken_up(arrays: PathArrays) -> MatheronPathModel:
    """Paths that pyrox drew, as paths of BoTorch: its classes and its arithmetic with
    other numbers in them."""
    zeros = np.zeros(len(arrays.anchors))
    model = fixed_model(arrays.anchors, zeros, arrays.variance, arrays.lengthscale, 1.0)
    paths = own_paths(model, len(arrays.cosine), seed=0)
    prior, update = paths._path["prior_paths"], paths._path["update_paths"]
    turn = arrays.frequencies @ arrays.origin
    # cos(a - t) and sin(a - t) in terms of cos(a) and sin(a).
    cosine = arrays.cosine * np.cos(turn) - arrays.sine * np.sin(turn)
    sine = arrays.cosine * np.sin(turn) + arrays.sine * np.cos(turn)
    weights = np.concatenate([sine, cosine], axis=1)
    weights *= (len(turn) / arrays.variance) ** 0.5  # it scales its features itself
    _put(prior.feature_map.weight, arrays.frequencies * arrays.lengthscale)
    _put(prior.weight, weights)
    _put(update.weight, arrays.update)
    return paths


def _put(there: torch.Tensor, numbers: np.ndarray) -> None:
    if there.shape != numbers.shape:
        raise ValueError(f"BoTorch holds {tuple(there.shape)}. Got {numbers.shape}.")
    there.data.copy_(torch.tensor(numbers))


def values(paths: MatheronPathModel, X: np.ndarray) -> np.ndarray:
    """(S, n)."""
    with torch.no_grad():
        return paths(torch.as_tensor(X)).squeeze(-1).numpy()


def use_quickest_threads(paths: MatheronPathModel, in_size: int) -> int:
    """One thread or one for each core, whichever is the quicker to give this machine
    values and slopes of the paths: on a busy one, many wait for each other."""
    X = torch.rand(*paths.sample_shape, 20, in_size, dtype=torch.float64)
    seconds = {}
    for n in (os.cpu_count() or 1, 1):
        torch.set_num_threads(n)
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            points = X.clone().requires_grad_(True)
            paths(points).sum().backward()
            runs.append(time.perf_counter() - start)
        seconds[n] = min(runs)
    quickest = min(seconds, key=lambda n: seconds[n])
    torch.set_num_threads(quickest)
    return quickest


def minimised(
    paths: MatheronPathModel, bounds: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Minimisers (S, D), minima (S,) and seconds, by BoTorch's defaults."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X, found = optimize_posterior_samples(
            paths, torch.as_tensor(bounds), sample_transform=torch.neg
        )
    seconds = time.perf_counter() - start
    found = found.detach().numpy().reshape(len(X))
    return X.detach().numpy(), found, seconds


def fitted(X: np.ndarray, y: np.ndarray, bounds: np.ndarray) -> SingleTaskGP:
    """BoTorch's default kernel and priors, of -y: it maximises."""
    inputs, targets = torch.tensor(X), -torch.tensor(y)[:, None]
    model = SingleTaskGP(
        inputs,
        targets,
        input_transform=Normalize(X.shape[1], bounds=torch.tensor(bounds)),
        outcome_transform=Standardize(1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that is tried again
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model.eval()


class Thompson:
    """The optima of q paths of a model that is refitted each time it is asked."""

    def __init__(self, bounds: np.ndarray, q: int, seed: int):
        self.bounds, self.q = bounds, q
        torch.set_num_threads(1)  # two took 2 to 13 times as long, of 50 values
        torch.manual_seed(seed)

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        model = fitted(X, y, self.bounds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, _ = get_optimal_samples(model, torch.tensor(self.bounds), self.q)
        return found.detach().numpy().reshape(self.q, -1)


class LogEI(Thompson):
    """q points jointly; restarts and samples as in BoTorch's own closed loop."""

    def __call__(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        model = fitted(X, y, self.bounds)
        improvement = qLogExpectedImprovement(model, best_f=float((-y).max()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, _ = optimize_acqf(
                improvement,
                torch.tensor(self.bounds),
                q=self.q,
                num_restarts=10,
                raw_samples=512,
            )
        return found.detach().numpy()
