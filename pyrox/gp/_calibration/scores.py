"""Proper scores: of each value, and of all of them jointly. The lower the better."""

from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real

from .._hyper.checks import as_count, as_float, as_noise, require
from .._hyper.unchecked import jit
from .._numerics import scores
from .forecast import (
    Drawn,
    Forecast,
    Normal,
    as_forecast,
    of_process,
    require_draws,
    require_key,
)

_N_SAMPLES = 256


def crps(
    f: Forecast,
    X: Real[ArrayLike, "N D"] | None,
    y: Real[ArrayLike, " N"],
    *,
    noise_var: Real[ArrayLike, "..."] | None = None,
    key: PRNGKeyArray | None = None,
) -> Float[Array, " N"]:
    """The continuous ranked probability score of each value, in the units of y.

        E|x - y| - E|x - x'| / 2,   x and x' independent of the forecast

    Of a forecast that is certain it is the absolute error. A proper score: its
    expectation is lowest for the law that y has. Closed form for normals; of draws the
    fair average, whose expectation does not depend on how many there are. It has
    derivatives in all that the forecast is made of.

    Args:
        f: a `ConditionedGP`, a `SparseFit`, a pair `(prior, guide)`, or paths, of
            which y is drawn along each, f_s(x) + e. Or a forecast of y itself: a pair
            of arrays (mean, var), each (N,), or draws (S, N), as of
            `predict_observation(...).sample`.
        X: inputs that were held out; not read where f is a forecast of y.
        y: their values.
        noise_var: variance of the noise of y, () or (N,); none for a forecast of y.
        key: for the noise along paths.

    Returns:
        One score for each value, of the forecast's float type.

    Raises:
        ValueError: an f of another kind; shapes that do not fit, NaN or inf; noise that
            is missing, or that a forecast of y has already; paths without a key; fewer
            than two draws.

    Cost: that of the predictions; of draws O(S log S) for each value.

    Source: Gneiting & Raftery 2007, eqs. 20 and 21; the fair form Ferro 2014.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, crps
        >>> X, y = jnp.array([[0.0], [1.0]]), jnp.array([1.0, -1.0])
        >>> posterior = GPPrior(RBF(), X).condition(y, 0.1)
        >>> crps(posterior, X, y, noise_var=0.1).shape
        (2,)
        >>> paths = PathwiseSampler(posterior, 64).sample_paths(jax.random.key(0), 50)
        >>> crps(paths, X, y, noise_var=0.1, key=jax.random.key(1)).shape
        (2,)
        >>> print(crps((jnp.zeros(1), jnp.ones(1)), None, jnp.zeros(1)))
        [0.2336...]
    """
    forecast, y = as_forecast("crps", f, X, y, noise_var)
    if isinstance(forecast, Normal):
        return _crps_normal(y, forecast.mean, forecast.var)
    return _crps_draws(y, require_draws("crps", forecast.of_y("crps", key)))


def log_score(
    f: Forecast,
    X: Real[ArrayLike, "N D"] | None,
    y: Real[ArrayLike, " N"],
    *,
    noise_var: Real[ArrayLike, "..."] | None = None,
) -> Float[Array, " N"]:
    """-log p(y_i) of each value under the forecast, in nats.

    Of paths the density is that of the mixture of N(f_s(x_i), noise_var) over them. For
    other likelihoods see `log_predictive_density`, which is minus this.

    Args:
        f, X, y, noise_var: as in `crps`. Draws of y have no density.

    Raises:
        ValueError: as `crps`; draws of y.

    Cost: that of the predictions.

    Source: Good 1952; Gneiting & Raftery 2007, section 4.1.

    Example:
        >>> import jax.numpy as jnp
        >>> from pyrox.gp import log_score
        >>> print(log_score((jnp.zeros(1), jnp.ones(1)), None, jnp.zeros(1)))
        [0.9189...]
    """
    forecast, y = as_forecast("log_score", f, X, y, noise_var)
    if isinstance(forecast, Normal):
        return _log_normal(y, forecast.mean, forecast.var)
    if forecast.noise_var is None:
        raise ValueError(
            "`log_score(f, X, y)` needs a density. Got draws of y, which have none. "
            "Pass paths and noise_var, or take `crps`, which draws are enough for."
        )
    return _log_mixture(y, forecast.f, forecast.noise_var)


def energy_score(
    f: Forecast,
    X: Real[ArrayLike, "N D"] | None,
    y: Real[ArrayLike, " N"],
    *,
    noise_var: Real[ArrayLike, "..."] | None = None,
    key: PRNGKeyArray | None = None,
    n_samples: int = _N_SAMPLES,
) -> Float[Array, ""]:
    """The CRPS of all values as one vector: E||x - y|| - E||x - x'|| / 2.

    It judges the forecast jointly, correlations included, though it feels these less
    than means and variances: see `variogram_score`. The average over draws is fair.

    Args:
        f, X, y, noise_var: as in `crps`, but no moments and no guide: these say what
            each value is alone.
        key: for the noise along paths, and the draws of a `ConditionedGP`.
        n_samples: how many draws of a `ConditionedGP`.

    Returns:
        One number, in the units of y.

    Raises:
        ValueError: as `crps`; a forecast of each value alone; no key.

    Cost: O(S^2 N), and that of the draws.

    Source: Gneiting & Raftery 2007, eq. 22.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import energy_score
        >>> draws = jax.random.normal(jax.random.key(0), (100, 3))
        >>> energy_score(draws, None, jnp.zeros(3)).shape
        ()
    """
    y, draws = _jointly("energy_score", f, X, y, noise_var, key, n_samples)
    return _energy(y, draws)


def variogram_score(
    f: Forecast,
    X: Real[ArrayLike, "N D"] | None,
    y: Real[ArrayLike, " N"],
    *,
    noise_var: Real[ArrayLike, "..."] | None = None,
    order: float = 0.5,
    weights: Real[ArrayLike, "N N"] | None = None,
    key: PRNGKeyArray | None = None,
    n_samples: int = _N_SAMPLES,
) -> Float[Array, ""]:
    """How well the forecast knows by how much values differ from each other:
    sum_ij w_ij (E|x_i - x_j|^p - |y_i - y_j|^p)^2.

    It feels wrong correlations more than the energy score does, and a wrong mean of all
    values not at all. The average over draws is fair.

    Args:
        f, X, y, noise_var, key, n_samples: as in `energy_score`.
        order: p, positive.
        weights: w, not negative, larger for pairs that matter, such as near ones; one
            for all by default.

    Returns:
        One number, in the units of y to the power of 2 p.

    Raises:
        ValueError: as `energy_score`; an order that is not positive; weights of another
            shape, or below zero.

    Cost: O(S N^2) time, O(N^2) memory.

    Source: Scheuerer & Hamill 2015 (Monthly Weather Review 143), eq. 9.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import variogram_score
        >>> draws = jax.random.normal(jax.random.key(0), (100, 3))
        >>> variogram_score(draws, None, jnp.zeros(3)).shape
        ()
    """
    call = "variogram_score"
    known: Any = order
    if not 0 < float(known) < float("inf"):
        raise ValueError(
            f"`{call}(order=...)` must be a positive number. Got {order}. Pass 0.5."
        )
    y, draws = _jointly(call, f, X, y, noise_var, key, n_samples)
    n = y.shape[0]
    if weights is None:
        weights = jnp.ones((n, n), y.dtype)
    where = f"{call}(weights=...)"
    w = as_float(weights, where)
    if w.shape != (n, n):
        raise ValueError(
            f"`{where}` must have shape ({n}, {n}), a weight for each pair of values. "
            f"Got {w.shape}. Leave it out for one for all."
        )
    w = require(
        w,
        lambda w: (w >= 0) & (w < float("inf")),
        f"`{where}` must be finite and not negative.",
    )
    return _variogram(y, draws, float(order), w.astype(y.dtype))


def _jointly(
    call: str,
    f: Any,
    X: Any,
    y: Any,
    noise_var: Any,
    key: PRNGKeyArray | None,
    n_samples: int,
) -> tuple[Float[Array, " N"], Float[Array, "S N"]]:
    """The values, and draws of all of them together."""
    forecast, y = as_forecast(call, f, X, y, noise_var)
    if isinstance(forecast, Normal):
        of_process(call, f, X)
        of_f, key = jr.split(require_key(call, key))
        n_samples = as_count(f"{call}(n_samples=...)", n_samples, 2)
        noise = as_noise(f"{call}(noise_var=...)", noise_var, forecast.n)
        noise = jnp.broadcast_to(noise.astype(forecast.dtype), y.shape)
        forecast = Drawn(f.sample(of_f, X, n_samples), noise)
    return y, require_draws(call, forecast.of_y(call, key))


_crps_normal = jit(scores.crps_normal)
_crps_draws = jit(scores.crps_draws)
_log_normal = jit(scores.log_score_normal)
_log_mixture = jit(scores.log_score_mixture)
_energy = jit(scores.energy_draws)
_variogram = jit(scores.variogram_draws, static_argnames="order")
