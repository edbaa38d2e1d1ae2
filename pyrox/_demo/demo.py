"""What the demonstration computes: data, hyperparameters, functions, a query."""

import contextlib
import io
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.infer import MCMC, NUTS, init_to_median

from ..gp import (
    GPPrior,
    Matern,
    PathwiseEnsemble,
    PathwiseFunction,
    gp_factor,
    paths_over_draws,
    site_names,
    substitute,
)

N_CHAINS = 2
LENGTHSCALE, VARIANCE, NOISE = "Matern.lengthscale", "Matern.variance", "noise_sd"


@dataclass(frozen=True)
class Problem:
    """Data in the user's units, and the way to the standardised units of the model."""

    X: Float[np.ndarray, "N D"]
    y: Float[np.ndarray, " N"]
    x_names: tuple[str, ...]
    y_name: str
    source: str
    origins: tuple[datetime | None, ...] = ()
    """Of a column that holds dates the day from which its numbers count."""

    def __post_init__(self):
        table = np.column_stack([self.X, self.y])
        for name, column in zip((*self.x_names, self.y_name), table.T, strict=True):
            _require_spread(self.source, name, column)

    @property
    def x_scale(self) -> Float[np.ndarray, " D"]:
        return self.X.std(axis=0)

    @property
    def y_scale(self) -> float:
        return float(self.y.std())

    def inputs(self, X: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M D"]:
        """Inputs in standardised units."""
        return (X - self.X.mean(axis=0)) / self.x_scale

    def values(self, f: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Standardised values in the user's units."""
        return self.y.mean() + self.y_scale * f

    def targets(self) -> Float[np.ndarray, " N"]:
        """y in standardised units."""
        return (self.y - self.y.mean()) / self.y_scale


def _require_spread(source: str, name: str, column: Float[np.ndarray, " N"]) -> None:
    if np.ptp(column) == 0:
        raise ValueError(
            f"{source}: the column {name!r} has the value {column[0]:g} in every row. "
            "Leave it out, or give rows in which it varies."
        )
    with np.errstate(over="ignore", under="ignore"):
        scale = column.std()
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(
            f"{source}: the column {name!r} is too large or too small to compute with. "
            "Give it in other units."
        )


def build_prior(problem: Problem) -> GPPrior:
    """A Matern-5/2 process with one lengthscale a column and weakly informative priors.

    In units of standard deviations, lengthscales and variance are LogNormal(0, 1):
    nine in ten prior draws lie between a fifth and five.
    """
    kernel = Matern(nu=2.5, init_lengthscale=jnp.ones(problem.X.shape[1]))
    kernel.set_prior("lengthscale", dist.LogNormal(0.0, 1.0))
    kernel.set_prior("variance", dist.LogNormal(0.0, 1.0))
    return GPPrior(kernel, problem.inputs(problem.X))


def model(prior: GPPrior, y: Float[Array, " N"]) -> None:
    """The NumPyro model: hyperparameters and noise, the function integrated out."""
    noise_sd = numpyro.sample(NOISE, dist.HalfNormal(1.0))
    gp_factor("y", prior, y, noise_var=noise_sd**2)


def run_nuts(
    key: PRNGKeyArray, problem: Problem, warmup: int, samples: int
) -> dict[str, Float[Array, "C T ..."]]:
    """Draws of the hyperparameters by site, in chains, in standardised units."""
    # A dense mass matrix follows the correlation of lengthscale and variance: half as
    # many effective draws again for the same work.
    kernel = NUTS(model, dense_mass=True, init_strategy=init_to_median())
    mcmc = MCMC(
        kernel,
        num_warmup=warmup,
        num_samples=samples,
        num_chains=N_CHAINS,
        chain_method="vectorized",
    )
    with _bar_in_terminals_only():
        mcmc.run(key, build_prior(problem), problem.targets())
    return jax.block_until_ready(mcmc.get_samples(group_by_chain=True))


@contextlib.contextmanager
def _bar_in_terminals_only() -> Iterator[None]:
    """Keeps the progress bar out of logs.

    Switched off in NumPyro, the whole run would be one program that Ctrl-C cannot stop.
    """
    if sys.stderr.isatty():
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def seconds_of_nuts(problem: Problem, steps: int) -> float:
    """An estimate of the time of NUTS, from the time of one gradient."""
    prior, y = build_prior(problem), problem.targets()

    def log_density(lengthscale):
        values = {LENGTHSCALE: lengthscale, VARIANCE: 1.0}
        return substitute(prior, values).log_marginal_likelihood(y, 0.1)

    gradient = jax.jit(jax.vmap(jax.value_and_grad(log_density)))
    points = jnp.ones((N_CHAINS, problem.X.shape[1]))
    jax.block_until_ready(gradient(points))  # compiled now, timed below
    start = time.perf_counter()
    jax.block_until_ready(gradient(points))
    gradients_per_step = 7  # trajectories of 3 and 7 leapfrog steps are the most common
    return steps * gradients_per_step * (time.perf_counter() - start)


@dataclass(frozen=True)
class Functions:
    """Posterior functions over all draws, in the user's units: (M, D) -> (S, M)."""

    problem: Problem
    ensemble: PathwiseEnsemble | PathwiseFunction
    n_paths: int
    n_draws: int

    def __call__(self, X: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "S M"]:
        values = np.asarray(self.ensemble(self.problem.inputs(X)))
        return self.problem.values(values.reshape(-1, len(X))[: self.n_paths])

    def one(self, i: int, X: Float[np.ndarray, "M D"]) -> Float[np.ndarray, " M"]:
        """The values of function `i` alone."""
        paths = self.ensemble
        if isinstance(paths, PathwiseEnsemble):
            draw, i = divmod(i, paths.paths.n_paths)
            paths = paths[draw]
        values = paths[i](self.problem.inputs(X))
        return self.problem.values(np.asarray(values)[0])


def draw_functions(
    key: PRNGKeyArray,
    problem: Problem,
    chains: dict[str, Float[Array, "C T ..."]],
    n_paths: int,
) -> Functions:
    """`n_paths` posterior functions, spread evenly over the draws of all chains.

    Each draw gets as many functions as every other; if that does not divide `n_paths`
    the last one has fewer.
    """
    prior, y = build_prior(problem), problem.targets()
    draws = {name: v.reshape(-1, *v.shape[2:]) for name, v in chains.items()}
    n_draws = len(draws[NOISE])
    each = -(-n_paths // n_draws)
    used = -(-n_paths // each)
    chosen = np.linspace(0, n_draws - 1, used).round().astype(int)
    draws = {name: values[chosen] for name, values in draws.items()}

    def condition(draw):
        values = {name: draw[name] for name in site_names(prior)}
        return substitute(prior, values).condition(y, draw[NOISE] ** 2)

    ensemble = paths_over_draws(key, draws, condition, n_paths=each)
    jax.block_until_ready(ensemble.paths.update_weights)
    return Functions(problem, ensemble, n_paths, used)


def slice_along(problem: Problem, column: int, size: int) -> Float[np.ndarray, "M D"]:
    """A grid over the range of one column, the others held at their medians."""
    grid = np.tile(np.median(problem.X, axis=0), (size, 1))
    low, high = problem.X[:, column].min(), problem.X[:, column].max()
    grid[:, column] = np.linspace(low, high, size)
    return grid


@dataclass(frozen=True)
class Query:
    """Where to measure next: the minimiser of one function drawn at random."""

    x: Float[np.ndarray, " D"]
    value: float
    path: int
    n_candidates: int


def thompson(
    key: PRNGKeyArray, functions: Functions, n_candidates: int = 4096
) -> Query:
    """Thompson sampling: the least of one function over candidates in the data's box.

    A grid for one column, uniform points for several.
    """
    key_path, key_points = jr.split(key)
    path = int(jr.randint(key_path, (), 0, functions.n_paths))
    X = functions.problem.X
    if X.shape[1] == 1:
        candidates = slice_along(functions.problem, 0, n_candidates)
    else:
        unit = np.asarray(jr.uniform(key_points, (n_candidates, X.shape[1])))
        candidates = X.min(axis=0) + np.ptp(X, axis=0) * unit
    values = functions.one(path, candidates)
    best = int(np.argmin(values))
    return Query(candidates[best], float(values[best]), path, n_candidates)
