"""What a forecast of y says at N inputs: one normal each, or draws of all of them."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import (
    as_float,
    as_noise,
    as_values,
    finite_positive,
    must_be_variance,
    require,
    require_finite,
)
from .._paths.ensemble import PathwiseEnsemble
from .._paths.path import PathwiseFunction
from .._posterior.exact import ConditionedGP
from .._posterior.guide import AbstractGuide


class AbstractForecast(eqx.Module):
    """The law of y at N inputs."""

    @property
    @abc.abstractmethod
    def n(self) -> int:
        """N."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """The type that scores are computed in."""


class Normal(AbstractForecast):
    """y_i ~ N(mean_i, var_i), noise included."""

    mean: Float[Array, " N"]
    var: Float[Array, " N"]

    @property
    def n(self) -> int:
        return self.mean.shape[0]

    @property
    def dtype(self) -> Any:
        return self.mean.dtype


class Drawn(AbstractForecast):
    """S draws of f at all inputs, to each of which noise is added; without `noise_var`
    they are draws of y."""

    f: Float[Array, "S N"]
    noise_var: Float[Array, " N"] | None

    @property
    def n(self) -> int:
        return self.f.shape[1]

    @property
    def dtype(self) -> Any:
        return self.f.dtype

    def of_y(self, call: str, key: PRNGKeyArray | None) -> Float[Array, "S N"]:
        """Draws of y, one along each draw of f."""
        if self.noise_var is None:
            return self.f
        noise = jr.normal(require_key(call, key), self.f.shape, self.dtype)
        return self.f + jnp.sqrt(self.noise_var)[None] * noise


Forecast = (
    ConditionedGP
    | PathwiseFunction
    | PathwiseEnsemble
    | tuple
    | list
    | Real[ArrayLike, "S N"]
    | Any
)


def as_forecast(
    call: str,
    f: Any,
    X: Real[ArrayLike, "N D"] | None,
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."] | None,
) -> tuple[Normal | Drawn, Float[Array, " N"]]:
    """The forecast, and the values in its type, checked."""
    found = _of_process(f, X)
    if found is None:
        forecast = _of_values(call, f)
        if noise_var is not None:
            raise ValueError(
                f"`{call}(f, X, y, noise_var=...)`: moments or draws are forecasts of "
                "y itself, noise included. Got noise_var beside them. Add it to the "
                "variance or the draws, and leave it out."
            )
    else:
        forecast = _with_noise(call, found, noise_var)
    y = as_values(f"{call}(y=...)", y, forecast.n).astype(forecast.dtype)
    return forecast, y


def of_process(call: str, f: Any, X: Any) -> None:
    """Raise unless `f` is a posterior that is exact, for what needs it jointly."""
    if not isinstance(f, ConditionedGP):
        raise ValueError(
            f"`{call}` judges all values jointly. Got a forecast that says what each "
            "is alone. Pass draws (S, N) of all of them, or paths: "
            "`DecoupledPathwiseSampler(prior, guide)(key, X, n_paths=256)` of a sparse "
            "posterior."
        )


def require_key(call: str, key: PRNGKeyArray | None) -> PRNGKeyArray:
    if key is None:
        raise ValueError(
            f"`{call}` needs a key: it draws the noise of y, or y itself. Got "
            "key=None. Pass `key=jax.random.key(0)`."
        )
    return key


def _of_process(f: Any, X: Any) -> Normal | Drawn | None:
    """The law of f at `X`, without noise, if it is a process."""
    if isinstance(f, PathwiseFunction | PathwiseEnsemble):
        values = f(X)
        return Drawn(values.reshape(-1, values.shape[-1]), None)
    if isinstance(f, ConditionedGP):
        return Normal(*f.predict(X))
    if isinstance(f, tuple | list) and len(f) == 2 and isinstance(f[1], AbstractGuide):
        return Normal(*f[1].predict(f[0], X))
    guide: Any = getattr(f, "guide", None)  # of what `fit_sparse` found
    if isinstance(guide, AbstractGuide):
        found: Any = f
        return Normal(*guide.predict(found.prior, X))
    return None


def _with_noise(
    call: str, found: Normal | Drawn, noise_var: ArrayLike | None
) -> Normal | Drawn:
    if noise_var is None:
        raise ValueError(
            f"`{call}(f, X, y, noise_var=...)`: a posterior or a path is one of f, "
            "and y = f(X) + e has noise. Got no noise_var. Pass its variance, "
            "`posterior.noise_var`, say."
        )
    noise = as_noise(f"{call}(noise_var=...)", noise_var, found.n)
    noise = jnp.broadcast_to(noise.astype(found.dtype), (found.n,))
    if isinstance(found, Normal):
        return Normal(found.mean, found.var + noise)
    return Drawn(found.f, noise)


def _of_values(call: str, f: Any) -> Normal | Drawn:
    """A forecast of y by its moments, a pair, or by draws."""
    where = f"{call}(f=...)"
    if isinstance(f, tuple | list) and len(f) == 2:
        mean, var = (as_float(part, where) for part in f)
        if mean.ndim != 1 or mean.shape != var.shape or not mean.shape[0]:
            raise ValueError(
                f"`{where}` of moments must be a pair of arrays (N,), mean and "
                f"variance. Got {mean.shape} and {var.shape}. Pass one of each for "
                "each value; of draws pass one array (S, N)."
            )
        require_finite(mean, where)
        var = require(var, finite_positive, must_be_variance(where))
        return Normal(mean, var.astype(mean.dtype))
    if isinstance(f, jax.Array) or hasattr(f, "__array__"):
        given: Any = f
        draws = as_float(given, where)
        if draws.ndim == 2 and draws.shape[1]:
            return Drawn(require_finite(draws, where), None)
        raise ValueError(
            f"`{where}` of draws must have shape (S, N), one row for each draw of all "
            f"values. Got {draws.shape}. For one value pass `draws[:, None]`."
        )
    raise ValueError(
        f"`{where}` must be a ConditionedGP, a SparseFit, a pair (prior, guide), "
        "paths, or a forecast of y: a pair (mean, var) or draws (S, N). Got a "
        f"{type(f).__name__}. Pass `prior.condition(y, noise_var)`, say."
    )


def require_draws(call: str, draws: Float[Array, "S N"]) -> Float[Array, "S N"]:
    """`draws`, if there are two, which fair scores need."""
    if draws.shape[0] < 2:
        raise ValueError(
            f"`{call}` of draws needs two of them, to know their spread. Got "
            f"{draws.shape[0]}. Draw more, some hundred."
        )
    return draws
