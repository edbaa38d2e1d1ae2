"""The posterior given a draw of a latent function's own values, as `gp_sample` makes
them.

What `gp_sample` draws are u ~ N(mean, K + jitter I): values of f and independent noise
of the jitter's variance, with which the matrix has a factor. So the function given u is
that given data u whose noise is the jitter, and nothing else.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._hyper.checks import as_float, must_be_finite, require_all
from .._hyper.parameters import (
    hyperparameter_fields,
    modules,
    must_be_valid,
    site,
    valid,
)
from .._hyper.priors import site_names, substitute
from .._hyper.unchecked import jit
from .._solvers.cholesky import guarded_factor
from .exact import ConditionedGP, GPPrior, conditioned
from .jitter import jitter_variance, no_factor
from .mean import mean_at
from .process import resolved


def latent(
    prior: GPPrior | Callable[[dict[str, Array]], GPPrior], name: str
) -> "LatentPosterior":
    """The posterior given draws of what `gp_sample(name, prior)` sampled.

    A function of one draw, for `paths_over_draws`, which so gives the functions that
    belong to the latent values of a model with any likelihood:

        paths = paths_over_draws(key, mcmc.get_samples(), latent(prior, "f"))

    A path passes through the values of its draw but for the jitter, whose noise the
    values carry: at the data it is less than a few of its deviations away. The draws
    may hold other sites. Of latent values within plates, of shape (..., N), there is a
    posterior for each element, stacked.

    A likelihood of several latent functions has several names, or a plate, and the
    functions of each, of a key of its own, go into it together. Noise that varies, and
    classes by softmax:

        f = paths_over_draws(key_f, draws, latent(level, "f"))(X)
        g = paths_over_draws(key_g, draws, latent(spread, "g"))(X)
        y = f + jnp.exp(g) * jax.random.normal(key, f.shape)  # (B, S, N)

        f = paths_over_draws(key, draws, latent(prior, "f"))(X)  # (B, classes, S, N)
        probabilities = jax.nn.softmax(f, axis=1)

    Outputs that are a function of one with Gaussian noise need no latent values: see
    `gp_factor`.

    Args:
        prior: the process as in the model, with the same priors on its hyperparameters
            and the same jitter; or a function from one draw, a dict, to the process,
            where the model builds it from sites of its own.
        name: what `gp_sample` was called with. The draws hold the site of this name, or
            `f"{name}_whitened"`.

    Returns:
        A function from one draw, a dict of values, to what `GPPrior.condition` returns.

    Raises:
        ValueError: a prior that is none. When called, draws without the latent values
            or without a hyperparameter that has a prior, or of other shapes than the
            process has; values or hyperparameters that are no numbers.

    Cost: when called that of `condition`, N^3 / 3 operations, once for all elements of
        plates; N^2 memory for each.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, latent, paths_over_draws
        >>> prior = GPPrior(RBF(), X=jnp.array([[0.0], [1.0], [2.0]]))
        >>> draws = {"f": jnp.array([[0.0, 1.0, 0.5], [0.1, 0.8, 0.4]])}
        >>> draws["scale"] = jnp.array([0.3, 0.4])  # a site of the likelihood
        >>> paths = paths_over_draws(jax.random.key(0), draws, latent(prior, "f"), 4)
        >>> paths(jnp.linspace(0, 2, 20)[:, None]).shape
        (2, 4, 20)
    """
    if not isinstance(prior, GPPrior) and not callable(prior):
        raise ValueError(
            "`latent(prior, name)` must be given the GPPrior of the model, or a "
            f"function from a draw to one. Got a {type(prior).__name__}."
        )
    return LatentPosterior(prior, name)


@dataclasses.dataclass(frozen=True)
class LatentPosterior:
    """What `latent` returns."""

    prior: GPPrior | Callable[[dict[str, Array]], GPPrior]
    name: str

    def __call__(self, draw: Mapping[str, ArrayLike]) -> ConditionedGP:
        """The posterior at this draw."""
        sites = {name: jnp.asarray(values) for name, values in draw.items()}
        values, whitened = self._values(sites)
        values = as_float(values, f"draws[{self.name!r}]")
        if isinstance(self.prior, GPPrior):
            prior, own = self.prior, self._hyperparameters(self.prior, sites)
        else:
            prior, own = self._built(sites), {}
        n = prior.X.shape[0]
        if values.ndim == 0 or values.shape[-1] != n:
            raise ValueError(
                f"`{self._call}`: a draw of {self.name!r} must have shape (..., {n}), "
                f"a value for each of the {n} rows of X. Got {values.shape}. Pass the "
                "prior of the model that was sampled, at the same inputs."
            )
        self._require_leading(prior, own, values.shape[:-1])
        return self._posterior(prior, own, values, whitened)

    @property
    def _call(self) -> str:
        return f"latent(prior, {self.name!r})"

    def _values(self, sites: Mapping[str, Array]) -> tuple[Array, bool]:
        """The latent values, and whether they are whitened."""
        if self.name in sites:
            return sites[self.name], False
        whitened = f"{self.name}_whitened"
        if whitened in sites:
            return sites[whitened], True
        raise ValueError(
            f"`{self._call}`: the draws must hold {self.name!r} or {whitened!r}. Got "
            f"draws of {sorted(sites)}. Pass the name that `gp_sample` was given, and "
            "`mcmc.get_samples()` of this very model."
        )

    def _hyperparameters(
        self, prior: GPPrior, sites: Mapping[str, Array]
    ) -> dict[str, Array]:
        missing = sorted(set(site_names(prior)) - set(sites))
        if missing:
            raise ValueError(
                f"`{self._call}`: the prior has hyperparameters {missing} with priors, "
                f"of which there are no draws. Got draws of {sorted(sites)}. Pass "
                "`mcmc.get_samples()` of this very model, or put values in first: "
                "`substitute(prior, values)`."
            )
        # Also of those without a prior here: a kernel built anew may lack what the
        # model's had, and its draws would go unheard.
        return {name: sites[name] for name in _shapes(prior) if name in sites}

    def _built(self, sites: dict[str, Array]) -> GPPrior:
        assert not isinstance(self.prior, GPPrior)
        try:
            prior = self.prior(sites)
        except KeyError as error:
            raise ValueError(
                f"`{self._call}`: the function asks for draws of {error}. Got draws "
                f"of {sorted(sites)}. Pass `mcmc.get_samples()` of this very model."
            ) from error
        if isinstance(prior, GPPrior):
            return prior
        raise ValueError(
            f"`{self._call}`: the function must return a GPPrior. Got a "
            f"{type(prior).__name__}."
        )

    def _require_leading(
        self, prior: GPPrior, own: Mapping[str, Array], leading: tuple[int, ...]
    ) -> None:
        """Hyperparameters may have the first of the leading axes of the values: those
        of draws, as of `get_samples(group_by_chain=True)`. Plates have none."""
        shapes = _shapes(prior)
        for name, value in own.items():
            first = value.shape[: value.ndim - len(shapes[name])]
            if value.shape != (*leading[: len(first)], *shapes[name]):
                raise ValueError(
                    f"`{self._call}`: {name!r} has shape {shapes[name]} in the prior, "
                    f"and its draws must have that, behind axes that {self.name!r} has "
                    f"in front, {leading}. Got {value.shape}. Pass "
                    "`mcmc.get_samples()` of this very model."
                )

    def _posterior(
        self, prior: GPPrior, own: dict[str, Array], values: Array, whitened: bool
    ) -> ConditionedGP:
        if values.ndim == 1:
            prior = resolved(substitute(prior, own), prior.X)
            return given_latent(self._call, self.name, prior, values, whitened)
        shapes = _shapes(prior)
        axes = {
            name: 0 if value.ndim > len(shapes[name]) else None
            for name, value in own.items()
        }

        def one(values, own):
            return self._posterior(prior, own, values, whitened)

        return jax.vmap(one, in_axes=(0, axes))(values, own)


def _shapes(prior: GPPrior) -> dict[str, tuple[int, ...]]:
    """The shape of each hyperparameter."""
    return {
        site(module, field.name): getattr(module, field.name).shape
        for module in modules(prior)
        for field in hyperparameter_fields(module)
    }


def given_latent(
    call: str, name: str, prior: GPPrior, values: Float[Array, " N"], whitened: bool
) -> ConditionedGP:
    """The posterior of a resolved prior given its latent values."""
    posterior, ok = _given_latent(prior, values, whitened)
    X, weights = prior.X, posterior.weights
    wanted = {
        must_be_finite(f"draws[{name!r}]"): jnp.all(jnp.isfinite(values)),
        must_be_valid(call, prior.kernel): valid(prior.kernel),
        must_be_finite("GPPrior(X=...)"): jnp.all(jnp.isfinite(X)),
        f"{no_factor(call, prior.jitter, X)} Or the kernel returns NaN.": ok,
        f"`{call}` must find finite weights: `mean_fn(X)` or the kernel holds NaN or "
        "inf. Look at these.": jnp.all(jnp.isfinite(weights)),
    }
    weights = require_all(weights, jnp.stack(list(wanted.values())), list(wanted))
    return eqx.tree_at(lambda p: p.weights, posterior, weights)


@functools.partial(jit, static_argnames="whitened")
def _given_latent(
    prior: GPPrior, values: Float[Array, " N"], whitened: bool
) -> tuple[ConditionedGP, Array]:
    if whitened:
        mean, lower, _ = latent_moments(prior)
        values = mean + lower @ values.astype(mean.dtype)
    none = jnp.zeros((), values.dtype)
    return conditioned(prior, values, none, None)


@jit
def latent_moments(prior: GPPrior) -> tuple[Array, Array, Array]:
    """Of the latent values of a prior: mean, root of the covariance, whether it is."""
    K = prior.kernel(prior.X, prior.X)
    root, ok = guarded_factor(K, jitter_variance(prior.jitter, K))
    return mean_at(prior.mean_fn, prior.X), root.lower, ok & valid(prior.kernel)
