"""GPyTorch's half of `benchmarks.likelihoods`: its strategy, its optimisers."""

import time
from collections.abc import Callable

import gpytorch
import numpy as np
import torch
from gpytorch.likelihoods.likelihood import _OneDimensionalLikelihood

from .likelihood_problems import DEGREES, JITTER, SCALE, Found, Problem

# Of q and of all else, as its documentation has them, and ten times that of Adam.
OPTIMISERS = {
    "natural .1, Adam .01": (0.1, 0.01),
    "natural .1, Adam .1": (0.1, 0.1),
    "Adam .01": (None, 0.01),
    "Adam .1": (None, 0.1),
}


class _Likelihood(_OneDimensionalLikelihood):
    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, f, *args, **kwargs):
        if self.name == "classes":
            return torch.distributions.Bernoulli(logits=f)
        if self.name == "counts":
            return torch.distributions.Poisson(f.exp())
        return torch.distributions.StudentT(DEGREES, f, SCALE)


class _Model(gpytorch.models.ApproximateGP):
    def __init__(self, problem: Problem, natural: bool):
        variational = gpytorch.variational
        kind = (
            variational.NaturalVariationalDistribution
            if natural
            else variational.CholeskyVariationalDistribution
        )
        Z = torch.as_tensor(problem.Z)
        q = kind(len(Z), mean_init_std=0.0)
        super().__init__(
            variational.VariationalStrategy(
                self, Z, q, jitter_val=JITTER * problem.variance
            )
        )
        base = (
            gpytorch.kernels.RBFKernel()
            if problem.kernel == "rbf"
            else gpytorch.kernels.MaternKernel(nu=2.5)
        )
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(base)
        self.covar_module.outputscale = problem.variance
        base.lengthscale = problem.lengthscale

    def forward(self, X):
        return gpytorch.distributions.MultivariateNormal(
            self.mean_module(X), self.covar_module(X)
        )


class Run:
    """A model and its optimisers. Each `step` returns the bound before it."""

    def __init__(self, problem: Problem, natural: float | None, rate: float):
        torch.set_default_dtype(torch.as_tensor(problem.X).dtype)
        self.model = _Model(problem, natural is not None)
        self.n_data = len(problem.X)
        self.bound = gpytorch.mlls.VariationalELBO(
            _Likelihood(problem.likelihood), self.model, num_data=self.n_data
        )
        of_q = list(self.model.variational_parameters())
        self.optimisers = []
        if natural is not None:
            ngd = gpytorch.optim.NGD(of_q, num_data=self.n_data, lr=natural)
            self.optimisers.append(ngd)
        if rate:
            rest = list(self.model.hyperparameters())
            own = rest if natural is not None else [*of_q, *rest]
            self.optimisers.append(torch.optim.Adam(own, lr=rate))
        self.model.train()

    def step(self, X: torch.Tensor, y: torch.Tensor) -> float:
        self.model.zero_grad(set_to_none=True)
        loss = -self.bound(self.model(X), y)
        loss.backward()
        for optimiser in self.optimisers:
            optimiser.step()
        return -self.n_data * loss.item()

    def found(self) -> Found:
        with torch.no_grad():
            q = self.model.variational_strategy._variational_distribution()
            kernel, strategy = self.model.covar_module, self.model.variational_strategy
            return Found(
                kernel.outputscale.item(),
                kernel.base_kernel.lengthscale.item(),
                strategy.inducing_points.numpy().copy(),
                q.mean.numpy().copy(),
                np.linalg.cholesky(q.covariance_matrix.numpy()),
            )


def _tensors(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.as_tensor(problem.X), torch.as_tensor(problem.y)


def best_q(problem: Problem) -> Found:
    """Hyperparameters as they are; natural gradients for q, or Adam where these end
    without a Gaussian."""
    try:
        run = Run(problem, 0.1, 0.0)
        for _ in range(300):
            run.step(*_tensors(problem))
    except RuntimeError:
        run = Run(problem, None, 0.0)
        of_q = list(run.model.variational_parameters())
        adam = torch.optim.Adam(of_q, lr=0.03)
        run.optimisers = [adam]
        rates = torch.optim.lr_scheduler.ExponentialLR(adam, 0.998)
        for _ in range(3000):
            run.step(*_tensors(problem))
            rates.step()
    return run.found()


def trainer(
    problem: Problem, optimiser: str, *, whole: bool = False
) -> Callable[[int], tuple]:
    """A run of so many steps from the start, whole or not, since nothing is compiled;
    it returns the bound before each step, up to one that failed, and a call for what
    was found."""
    data = _tensors(problem)

    def call(n_steps: int) -> tuple[np.ndarray, Callable[[], Found]]:
        run, bounds = Run(problem, *OPTIMISERS[optimiser]), []
        for _ in range(n_steps):
            try:
                bounds.append(run.step(*data))
            except RuntimeError:  # no Gaussian
                break
        return np.asarray(bounds), run.found

    return call


def by_minibatches(
    problem: Problem, held_out: Problem, optimiser: str, batch_size: int, seconds: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Marginals at held-out inputs after so many seconds of minibatches, and how many
    these were."""
    torch.manual_seed(0)
    run, (X, y) = Run(problem, *OPTIMISERS[optimiser]), _tensors(problem)
    data = torch.utils.data.TensorDataset(X, y)
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size, shuffle=True)
    start, n_steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for batch in loader:
            run.step(*batch)
            n_steps += 1
            if time.perf_counter() - start >= seconds:
                break
    run.model.eval()
    with torch.no_grad(), gpytorch.settings.fast_pred_var():
        q = run.model(torch.as_tensor(held_out.X))
        return q.mean.numpy(), q.variance.numpy(), n_steps
