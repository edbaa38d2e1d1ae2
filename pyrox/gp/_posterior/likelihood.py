"""p(y_i | f_i), one latent value a datum, and its expected log density.

A likelihood is a callable from latent values (N,) to a NumPyro distribution of batch
shape (N,); of several latent functions from their values (P, N). It is read where it is
passed in; the NumPyro sites that it makes are made then, once, and their values are
leaves of what was read.
"""

import abc
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real, Shaped

from .._hyper.checks import as_count, as_noise, as_values
from .._hyper.likelihood import (
    as_distribution,
    as_numpyro_is,
    as_outcomes,
    log_prob,
    require_columns,
    require_support,
)
from .._numerics.closure import Closure, read
from .._numerics.hermite import log_normal_expectation, normal_expectation

N_POINTS = 20

Own = TypeVar("Own", bound="AbstractLikelihood")


class AbstractLikelihood(eqx.Module):
    """p(y_i | f_i) for each of N data."""

    @abc.abstractmethod
    def parameters(self) -> dict[str, Array]:
        """What can be trained, by name."""

    @abc.abstractmethod
    def rows(self: Own, rows: Int[Array, " B"]) -> Own:
        """That of these data alone."""

    @abc.abstractmethod
    def given(self) -> dict[str, Array]:
        """All values that it was given, by name."""

    @abc.abstractmethod
    def log_density_of(
        self, y: Shaped[Array, " N"]
    ) -> Callable[[Float[Array, "... N"]], Float[Array, " N"]]:
        """log p(y_i | f_i) as a function of the latent values."""

    @abc.abstractmethod
    def expected(
        self, mean: Float[Array, " N"], var: Float[Array, " N"], y: Shaped[Array, " N"]
    ) -> Float[Array, " N"]:
        """E[log p(y_i | f_i)] for f_i ~ N(mean_i, var_i)."""

    @abc.abstractmethod
    def log_expected(
        self, mean: Float[Array, " N"], var: Float[Array, " N"], y: Shaped[Array, " N"]
    ) -> Float[Array, " N"]:
        """log E[p(y_i | f_i)] for f_i ~ N(mean_i, var_i)."""

    @abc.abstractmethod
    def allows(self, y: Shaped[Array, " N"]) -> Bool[Array, ""]:
        """Whether there is a density of y at all."""


class GaussianNoise(AbstractLikelihood):
    """y_i = f_i + e_i, e_i ~ N(0, noise_var_i); its expectation has a closed form."""

    noise_var: Float[Array, "..."]

    def parameters(self) -> dict[str, Array]:
        return {} if self.noise_var.ndim else self.given()

    def rows(self, rows: Int[Array, " B"]) -> "GaussianNoise":
        return GaussianNoise(self.noise_var[rows]) if self.noise_var.ndim else self

    def given(self) -> dict[str, Array]:
        return {"noise_var": self.noise_var}

    def log_density_of(
        self, y: Shaped[Array, " N"]
    ) -> Callable[[Float[Array, "... N"]], Float[Array, " N"]]:
        return lambda f: self.log_expected(f, jnp.zeros_like(f), y)

    def expected(
        self, mean: Float[Array, " N"], var: Float[Array, " N"], y: Shaped[Array, " N"]
    ) -> Float[Array, " N"]:
        noise_var = jnp.where(self.noise_var > 0, self.noise_var, 1)
        misfit = ((y - mean) ** 2 + var) / noise_var
        return -0.5 * (misfit + jnp.log(2 * jnp.pi * noise_var))

    def log_expected(
        self, mean: Float[Array, " N"], var: Float[Array, " N"], y: Shaped[Array, " N"]
    ) -> Float[Array, " N"]:
        total = var + self.noise_var
        return -0.5 * ((y - mean) ** 2 / total + jnp.log(2 * jnp.pi * total))

    def allows(self, y: Shaped[Array, " N"]) -> Bool[Array, ""]:
        return jnp.all(self.noise_var > 0)


class ReadLikelihood(AbstractLikelihood):
    """A user's likelihood as it was when it was read, by quadrature.

    `values` are those of its NumPyro sites, by name.
    """

    log_density: Closure
    support: Closure
    values: dict[str, Array]
    n_points: int = eqx.field(static=True)

    def parameters(self) -> dict[str, Array]:
        return self.values

    def rows(self, rows: Int[Array, " B"]) -> "ReadLikelihood":
        return self  # it was read for so many

    def given(self) -> dict[str, Array]:
        return self.values

    def log_density_of(
        self, y: Shaped[Array, " N"]
    ) -> Callable[[Float[Array, "... N"]], Float[Array, " N"]]:
        return lambda f: self.log_density(f, y, self.values)

    def expected(
        self, mean: Float[Array, " N"], var: Float[Array, " N"], y: Shaped[Array, " N"]
    ) -> Float[Array, " N"]:
        return normal_expectation(self.log_density_of(y), mean, var, self.n_points)

    def log_expected(
        self, mean: Float[Array, " N"], var: Float[Array, " N"], y: Shaped[Array, " N"]
    ) -> Float[Array, " N"]:
        return log_normal_expectation(self.log_density_of(y), mean, var, self.n_points)

    def allows(self, y: Shaped[Array, " N"]) -> Bool[Array, ""]:
        return jnp.all(self.support(y, self.values))


def as_likelihood(
    call: str,
    y: Real[ArrayLike, " N"],
    like: jax.ShapeDtypeStruct,
    noise_var: Real[ArrayLike, "..."] | None,
    likelihood: Callable | None,
    n_points: int = N_POINTS,
    site: str = "",
) -> tuple[AbstractLikelihood, Shaped[Array, " N"]]:
    """The likelihood and the values, checked; latent values will be `like` these."""
    n = like.shape[0]
    require_one_of(call, noise_var, likelihood, several=len(like.shape) > 1)
    if likelihood is None:
        y = as_values(f"{call}(y=...)", y, n, at_run_time=False).astype(like.dtype)
        known: Any = noise_var
        noise = as_noise(f"{call}(noise_var=...)", known, n, at_run_time=False)
        return GaussianNoise(noise.astype(like.dtype)), y
    data = y, like, likelihood, n_points
    law, y, _ = read_with_sites(call, *data, likelihood, site)
    return law, y


def read_with_sites(
    call: str,
    y: Real[ArrayLike, " N"],
    like: jax.ShapeDtypeStruct,
    likelihood: Callable,
    n_points: int,
    first: Callable,
    site: str = "",
) -> tuple["ReadLikelihood", Shaped[Array, " N"], dict[str, Any]]:
    """The likelihood and the values, checked, and the NumPyro sites that it made when
    it was called `first`."""
    n_points = as_count(f"{call}(n_points=...)", n_points, 2)
    y = as_outcomes(f"{call}(y=...)", y, like.shape[-1], at_run_time=False)
    law, sites = with_sites_made(call, first, like)
    require_support(f"{call}(y=...)", law, y, site=site, at_run_time=False)
    values = {name: jnp.asarray(made["value"]) for name, made in sites.items()}
    return read_likelihood(call, likelihood, like, y, values, n_points), y, sites


def require_one_of(
    call: str, noise_var: Any, likelihood: Any, *, several: bool = False
) -> None:
    """Raise unless exactly one of the two was passed; of `several` latent functions
    that is the likelihood."""
    if several and (likelihood is None or noise_var is not None):
        got = "no likelihood" if noise_var is None else "noise_var"
        raise ValueError(
            f"`{call}` of several latent functions must be given a likelihood of all "
            f"their values, and nothing beside it. Got {got}. Pass "
            "`likelihood=lambda f: dist.Normal(f[0], jnp.exp(f[1]))`, say."
        )
    if not several and (noise_var is None) == (likelihood is None):
        got = "neither" if noise_var is None else "both"
        raise ValueError(
            f"`{call}` must be given noise_var, for Gaussian noise, or a likelihood. "
            f"Got {got}. Pass `noise_var=0.1`, say, or "
            "`likelihood=lambda f: dist.Poisson(jnp.exp(f))`."
        )
    # A distribution is callable, too: it draws.
    if hasattr(likelihood, "log_prob") or not callable(likelihood or len):
        raise ValueError(
            f"`{call}(likelihood=...)` must be a function from latent values to a "
            f"NumPyro distribution. Got {likelihood!r}. Pass "
            "`lambda f: dist.Poisson(jnp.exp(f))`, say."
        )


def read_likelihood(
    call: str,
    likelihood: Callable,
    like: jax.ShapeDtypeStruct,
    y: Shaped[Array, " N"],
    values: Mapping[str, Array],
    n_points: int,
) -> ReadLikelihood:
    """`likelihood` as it is now, its sites at values of these shapes."""

    def log_density(f, y, values):
        return log_prob(given_sites(likelihood, values)(f), y, like.dtype)

    def support(y, values):
        law = given_sites(likelihood, values)(jnp.zeros_like(like))
        with as_numpyro_is():
            return law.support(y) & jnp.isfinite(y)

    call, values = f"{call}(likelihood=...)", dict(values)
    require_columns(call, given_sites(likelihood, values), like)
    density = read(call, log_density, like, y, values)
    return ReadLikelihood(density, read(call, support, y, values), values, n_points)


def given_sites(likelihood: Callable, values: Mapping[str, Array]) -> Callable:
    """`likelihood` with these values of its sites, none of which is made again."""
    if not values:
        return likelihood
    from numpyro import handlers

    return handlers.block(handlers.substitute(likelihood, data=dict(values)))


def with_sites_made(
    call: str, likelihood: Callable, like: jax.ShapeDtypeStruct
) -> tuple[Any, dict[str, Any]]:
    """The distribution at f = 0, checked, and the NumPyro sites that were made."""
    from numpyro import handlers

    with handlers.trace() as made:
        law = as_distribution(call, likelihood, np.zeros(like.shape, like.dtype))
    kinds = "sample", "param"
    return law, {name: s for name, s in made.items() if s["type"] in kinds}
