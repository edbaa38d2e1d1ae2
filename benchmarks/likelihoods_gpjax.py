"""GPJax's half of `benchmarks.likelihoods`: its whitened family, its optimisers."""

import functools
from collections.abc import Callable

import equinox as eqx
import gpjax as gpx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gpjax.likelihoods import AbstractLikelihood
from gpjax.parameters import val

from .likelihood_problems import JITTER, Found, Problem, distribution

# A step of natural gradients and one of Adam, in turns, as `fit_natgrads` says; Adam
# for everything; L-BFGS for everything.
OPTIMISERS = {
    "natural .1, Adam .01": (0.1, 0.01),
    "natural .5, Adam .1": (0.5, 0.1),
    "Adam .01": (None, 0.01),
    "Adam .1": (None, 0.1),
}


class _Likelihood(AbstractLikelihood):
    """The NumPyro distribution that every side has."""

    name: str = eqx.field(static=True)

    def __init__(self, name: str):
        super().__init__(gpx.integrators.GHQuadratureIntegrator(num_points=20))
        self.name = name

    def link_function(self, f):
        return distribution(self.name)(f)

    def predict(self, dist):
        return self.link_function(dist.mean)


def _family(problem: Problem):
    make = {"rbf": gpx.kernels.RBF, "matern52": gpx.kernels.Matern52}[problem.kernel]
    kernel = make(
        lengthscale=problem.lengthscale,
        variance=problem.variance,
        n_dims=problem.X.shape[1],
    )
    prior = gpx.gps.Prior(
        mean_function=gpx.mean_functions.Zero(),
        kernel=kernel,
        jitter=JITTER * problem.variance,
    )
    return gpx.variational_families.WhitenedVariationalGaussian(
        model=prior * _Likelihood(problem.likelihood), inducing_inputs=problem.Z
    )


def _data(problem: Problem):
    return gpx.Dataset(X=jnp.asarray(problem.X), y=jnp.asarray(problem.y)[:, None])


def _loss(family, data):
    return -gpx.objectives.elbo(family, data)


def _found(family) -> Found:
    kernel = family.model.prior.kernel
    return Found(
        float(val(kernel.variance)),
        float(np.ravel(val(kernel.lengthscale))[0]),
        np.asarray(val(family.inducing_inputs)),
        np.asarray(val(family.variational_mean))[:, 0],
        np.asarray(val(family.variational_root_covariance)),
    )


def best_q(problem: Problem) -> Found:
    """Hyperparameters as they are, natural gradients for q."""
    family, _ = gpx.fit_natgrads(
        model=_family(problem),
        objective=_loss,
        train_data=_data(problem),
        optim=optax.set_to_zero(),
        natgrad_lr=0.5,
        num_iters=200,
        verbose=False,
    )
    return _found(family)


def trainer(
    problem: Problem, optimiser: str, *, whole: bool = False
) -> Callable[[int], tuple]:
    """A run of so many steps from the start, compiled before or the whole call as GPJax
    has it; it returns the bound before each step and a call for what was found."""
    natural, rate = OPTIMISERS[optimiser]
    family, data = _family(problem), _data(problem)
    how = {"objective": _loss, "train_data": data, "verbose": False, "safe": False}
    programs = {}

    def run(n_steps: int, family):
        if natural is None:
            return gpx.fit(
                model=family, optim=optax.adam(rate), num_iters=n_steps, **how
            )
        return gpx.fit_natgrads(
            model=family,
            optim=optax.adam(rate),
            natgrad_lr=natural,
            num_iters=n_steps,
            **how,
        )

    def program(n_steps: int):
        fixed = functools.partial(run, n_steps)
        return fixed if whole else jax.jit(fixed).lower(family).compile()

    def call(n_steps: int) -> tuple[np.ndarray, Callable[[], Found]]:
        if n_steps not in programs:
            programs[n_steps] = program(n_steps)
        trained, losses = jax.block_until_ready(programs[n_steps](family))
        return -np.asarray(losses), lambda: _found(trained)

    return call
