"""What `fit_sparse` found, and how it says so."""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from .._hyper.checks import is_traced
from .._posterior.families import WhitenedGuide
from .._posterior.likelihood import given_sites
from .._posterior.mean import own_arrays
from .._posterior.sparse import SparseGPPrior
from .fit_report import numbers
from .sparse_problem import INDUCING
from .trained import MEAN, NOISE, named_values


class SparseFit(eqx.Module):
    """What `fit_sparse` found: a prior, q(u), and how it got there. `print` it.

    Attributes:
        prior: with the hyperparameters and the inducing inputs that were found.
        guide: q(u), in whitened space.
        parameters: values of `noise_var`, or of the sites of the likelihood.
        elbo: the evidence lower bound of all data at these; after minibatches too.
        log_prior: the log densities of the values that have a prior.
        gradient_norm: the largest entry, in size, of the gradient a datum in the
            unconstrained space; zero if nothing but q(u) was trained, NaN after
            minibatches.
        n_steps: steps of the search for hyperparameters, or minibatches.
        n_natural_steps: natural-gradient steps of the last search for q(u), or zero.
        converged: whether `gradient_norm` is within the tolerance; after minibatches
            False, for nobody knows.
        fixed: the names of what was not trained.
        held_out: the mean of log p(y_i | data) over data that were held out, or None.
    """

    prior: SparseGPPrior
    guide: WhitenedGuide
    parameters: dict[str, Array]
    elbo: Float[Array, ""]
    log_prior: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    n_steps: Int[Array, ""]
    n_natural_steps: Int[Array, ""]
    converged: Bool[Array, ""]
    tolerance: Float[Array, ""]
    n_data: int = eqx.field(static=True)
    fixed: tuple[str, ...] = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    given: Callable | None = eqx.field(static=True)
    held_out: Float[Array, ""] | None = None

    @property
    def likelihood(self) -> Callable | None:
        """The likelihood with the values found of its sites; None for noise_var."""
        if self.given is None:
            return None
        return given_sites(self.given, self.parameters)

    @property
    def noise_var(self) -> Float[Array, "..."] | None:
        """The variance of the noise that was found or given, None with a likelihood."""
        return self.parameters.get(NOISE)

    def predict(
        self, X: Real[ArrayLike, "N D"], *, block_size: int | None = None
    ) -> tuple[Float[Array, " N"], Float[Array, " N"]]:
        """Mean and variance of f at each row of `X`: `guide.predict(prior, X)`."""
        return self.guide.predict(self.prior, X, block_size=block_size)

    def __str__(self) -> str:
        if any(is_traced(leaf) for leaf in jax.tree.leaves(self)):
            return "a fit that is being traced: its values are known when it runs"
        bound = f"evidence lower bound {float(self.elbo):.6g} of {self.n_data} data"
        if float(self.log_prior):
            bound += f", log density of the priors {float(self.log_prior):.6g}"
        lines = [_headline(self), f"{bound}, {self.guide.size} inducing inputs"]
        if self.held_out is not None:
            density = f"log predictive density {float(self.held_out):.6g} a datum"
            lines.append(f"{density} of those held out")
        return "\n".join([*lines, *_values(self)])


def _headline(found: SparseFit) -> str:
    steps = int(found.n_steps)
    if found.batch_size is not None:
        return f"{steps} minibatches of {found.batch_size}"
    natural = f"{int(found.n_natural_steps)} natural-gradient steps"
    sign = "<=" if found.converged else ">"
    return (
        f"{'converged' if found.converged else 'NOT CONVERGED'} after {steps} steps, "
        f"the last with {natural}: gradient {float(found.gradient_norm):.1e} {sign} "
        f"{float(found.tolerance):.0e} a datum"
    )


def _values(found: SparseFit) -> list[str]:
    prior = found.prior
    values: list[Any] = [*named_values(prior), *found.parameters.items()]
    arrays = [np.ravel(leaf) for leaf in jax.tree.leaves(own_arrays(prior.mean_fn))]
    if arrays:
        values.append((MEAN, np.concatenate(arrays)))
    values.append((INDUCING, prior.Z))
    width = max(len(name) for name, _ in values)
    return [
        f"  {name:{width}}  {numbers(np.asarray(value))}"
        f"{'  (fixed)' if name in found.fixed else ''}"
        for name, value in values
    ]


def warn_if_not_found(found: SparseFit, most_steps: int) -> None:
    """Say in words what `converged=False` means."""
    if found.converged or found.batch_size is not None:
        return
    if int(found.n_steps) >= most_steps:
        what = f"stopped at max_steps={most_steps}"
        fix = f"Pass max_steps={4 * most_steps}, say"
    else:
        what = f"found no higher bound after {int(found.n_steps)} steps"
        fix = "Pass float64 arrays, or another start"
    warnings.warn(
        f"`fit_sparse` has not converged: it {what}, where the gradient per datum is "
        f"{float(found.gradient_norm):.1e}, above tolerance="
        f"{float(found.tolerance):.0e}. {fix}, or a larger tolerance. The best values "
        "found are returned.",
        stacklevel=3,
    )
