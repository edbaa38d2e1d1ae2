"""What a fit found, and how it says so."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._hyper.checks import is_traced
from .._posterior.exact import ConditionedGP, GPPrior
from .._posterior.mean import own_arrays
from .._posterior.missing import how_many, kept
from .trained import MEAN, NOISE, named_values


class Starts(eqx.Module):
    """A row for each start of a fit, in their order.

    Attributes:
        log_density: the log joint density that it reached, with an objective minus
            the summed score in place of the likelihood, `-inf` where it had none. In
            a program the default has a second row, `-inf` where it was not needed.
        n_steps: the steps it took.
        converged: whether its gradient is within the tolerance.
    """

    log_density: Float[Array, "... S"]
    n_steps: Int[Array, "... S"]
    converged: Bool[Array, "... S"]


class Fit(eqx.Module):
    """What `fit` found: a posterior at the best hyperparameters, and how it got there.

    A pytree of arrays: it is returned from `jit`, and stacked by `vmap`, over data sets
    say. `print` it for a report.

    What is computed from it may be differentiated, by `jax.grad`, in the data y, the
    inputs X, what is fixed (noise, hyperparameters), or the parameters of a prior. The
    derivative is that of the whole refit, by the implicit function theorem: it costs
    one Hessian, P times O(N^3) for P trained numbers, and no memory for the steps. It
    is right at the maximum, so pass a small tolerance, such as 1e-8. By the values that
    the search sets out from it is zero, as it is where a value has no influence.

    Attributes:
        posterior: `prior.condition(y, noise_var)` of what was found.
        log_density: the maximised log joint density: the log marginal likelihood plus
            the log densities of the priors. With an objective it is that of what was
            found, not maximised.
        log_marginal_likelihood: its first part.
        noise_log_density: the same of the data as noise alone, about the same mean and
            of the best variance that the given noise allows.
        only_noise: whether the optimum explains nothing beyond noise: its likelihood is
            above `noise_log_density` by no more than a thousandth a datum and one in
            all, or the function it leads to is a level where the data are. It is where
            its squared moves over twice the variance of the noise add up to no more
            than that. A gain of one or two is not nothing, but it is little.
        gradient_norm: the largest entry, in size, of the gradient per datum in the
            unconstrained space, at the start that won.
        n_steps: the steps of the start that won.
        converged: whether `gradient_norm` is within the tolerance.
        tolerance: what it was held against.
        starts: all starts.
        fixed: the names of what was not trained.
        score: the mean leave-one-out score that an `objective` was lowered to, or None.
    """

    posterior: ConditionedGP
    log_density: Float[Array, "..."]
    log_marginal_likelihood: Float[Array, "..."]
    noise_log_density: Float[Array, "..."]
    only_noise: Bool[Array, "..."]
    gradient_norm: Float[Array, "..."]
    n_steps: Int[Array, "..."]
    converged: Bool[Array, "..."]
    tolerance: Float[Array, "..."]
    starts: Starts
    fixed: tuple[str, ...] = eqx.field(static=True)
    score: Float[Array, "..."] | None = None

    @property
    def prior(self) -> GPPrior:
        """The prior with the hyperparameters that were found, as values."""
        return self.posterior.prior

    @property
    def noise_var(self) -> Float[Array, "..."]:
        """The variance of the noise that was found, or was given."""
        return self.posterior.noise_var

    def __str__(self) -> str:
        if any(is_traced(leaf) for leaf in jax.tree.leaves(self)):
            return "a fit that is being traced: its values are known when it runs"
        if self.log_density.ndim:
            return (
                f"{self.log_density.size} fits, {int(jnp.sum(self.converged))} "
                "converged; one of them is `jax.tree.map(lambda leaf: leaf[0], fits)`"
            )
        return "\n".join(
            [
                *_headline(self),
                *value_lines(self.posterior, self.fixed),
                *_table(self.starts),
            ]
        )


def _headline(found: Fit) -> list[str]:
    sign = "<=" if found.converged else ">"
    return [
        f"{'converged' if found.converged else 'NOT CONVERGED'} after "
        f"{int(found.n_steps)} steps: gradient {float(found.gradient_norm):.1e} "
        f"{sign} {float(found.tolerance):.0e} a datum",
        f"log density {float(found.log_density):.6g}, of which log marginal likelihood "
        f"{float(found.log_marginal_likelihood):.6g}, of {_data(found)}",
        *_scores(found),
        *_verdict(found),
    ]


def _scores(found: Fit) -> list[str]:
    if found.score is None:
        return []
    return [f"leave-one-out score {float(found.score):.6g} a datum, minimised"]


def _data(found: Fit) -> str:
    derivatives = found.posterior.derivatives
    m = 0 if derivatives is None else derivatives.values.size
    n = int(how_many(found.posterior.observed, found.posterior.y))
    return f"{n} data" + (f" and {m} derivatives" if m else "")


def _verdict(found: Fit) -> list[str]:
    if not found.only_noise:
        return []
    return [
        "NOTHING BEYOND NOISE: as noise alone about the mean the data have log density "
        f"{float(found.noise_log_density):.6g};",
        "  the kernel adds nothing that would be seen, or no more than a level. Pass "
        "more starts",
        "  (n_starts=5, key=...) or another kernel, or take it that it is noise.",
    ]


def value_lines(posterior: ConditionedGP, fixed: tuple[str, ...]) -> list[str]:
    """A line for each hyperparameter, the noise and the mean."""
    prior, noise_var = posterior.prior, np.asarray(posterior.noise_var)
    values = [(n, np.asarray(value)) for n, value in named_values(prior)]
    if noise_var.ndim:
        noise_var = kept(noise_var, posterior.observed)
    values.append((NOISE, noise_var))
    arrays = [np.ravel(leaf) for leaf in jax.tree.leaves(own_arrays(prior.mean_fn))]
    if arrays:
        values.append((MEAN, np.concatenate(arrays)))
    width = max(len(name) for name, _ in values)
    return [
        f"  {name:{width}}  {numbers(value)}{'  (fixed)' if name in fixed else ''}"
        for name, value in values
    ]


def numbers(value: np.ndarray) -> str:
    """The entries of an array, the middle ones left out where they are many."""
    entries = [f"{x:.4g}" for x in value.ravel()]
    if len(entries) > 8:
        entries = [*entries[:4], "...", *entries[-3:]]
    return " ".join(entries)


def _table(starts: Starts) -> list[str]:
    rows = [np.asarray(column) for column in jax.tree.leaves(starts)]
    # In a program the default has a row for a start that may not have been needed.
    if np.isfinite(rows[0]).sum() <= 1:
        return []
    lines = [
        f"  {i + 1:5}  {density:11.6g}  {steps:5}  {'yes' if converged else 'no'}"
        for i, (density, steps, converged) in enumerate(zip(*rows, strict=True))
    ]
    return ["  start  log density  steps  converged", *lines]


def no_density(n_starts: int, precision: np.dtype) -> str:
    """The sentence for a fit in which no start has a log density."""
    return (
        f"`fit`: the log density is -inf at {n_starts} of {n_starts} starts: the Gram "
        f"matrix is not positive definite in {precision}, or a prior gives the values "
        "no density. Pass a larger noise_var or jitter, other values to start from, "
        "or float64 arrays."
    )


def warn_if_not_converged(found: Fit, most_steps: int) -> None:
    """Say in words what `converged=False` means."""
    if found.converged:
        return
    n_steps, precision = int(found.n_steps), found.posterior.y.dtype
    if n_steps >= most_steps:
        what, fix = (
            f"stopped at max_steps={most_steps}",
            f"Pass max_steps={4 * most_steps}, say",
        )
    else:
        what = f"found no higher density in {precision} after {n_steps} steps"
        fix = "Pass float64 arrays" if precision.itemsize < 8 else "Pass another start"
    warnings.warn(
        f"`fit` has not converged: it {what}, where the gradient per datum is "
        f"{float(found.gradient_norm):.1e}, above tolerance="
        f"{float(found.tolerance):.0e}. {fix}, a larger tolerance, or more starts "
        "(n_starts=5, key=...). The best values found are returned.",
        stacklevel=3,
    )
