"""The evidence lower bound of several latent functions under one likelihood.

q(f_1, ..., f_P) is a product: each function has a sparse process and a guide of its
own. At a datum the likelihood sees all P values, so that its expectation is an integral
over P independent normals (Saul et al. 2016, section 3). Products of quadratures would
take n^P densities; draws take the same number for ten classes as for two.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, Real, Shaped

from .._hyper.checks import as_count, common_dtype
from .._hyper.parameters import valid
from .._hyper.priors import sample_hyperparameters, site_names
from .._hyper.unchecked import jit
from .._kernels.given import as_inputs_of
from .._numerics.sobol import sobol_normals_for_each
from .guide import AbstractGuide, as_guide
from .likelihood import N_POINTS, ReadLikelihood, read_with_sites, require_one_of
from .process import resolved
from .sparse import SparseGPPrior, of_one_dtype

N_DRAWS = 16


def elbo_of_several(
    key: PRNGKeyArray,
    priors: Sequence[SparseGPPrior],
    guides: Sequence[AbstractGuide],
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    *,
    likelihood: Callable,
    n_total: int | None = None,
    n_draws: int = N_DRAWS,
) -> Float[Array, ""]:
    """The evidence lower bound for y_i ~ p(y_i | f_1(x_i), ..., f_P(x_i)).

        n_total / N * sum_i E_q[log p(y_i | f_1, ..., f_P)] - sum_p KL(q(u_p) || p(u_p))

    For classes by softmax, noise that varies, and any other likelihood of more than one
    latent function, each with a guide of its own. The expectation is an average over
    draws, unbiased, and the same for the same key. Its Monte Carlo error is its
    deviation over keys, `jax.vmap(bound)(jax.random.split(key, 100)).std()`. Like a
    log-density, the bound is `-inf` where traced values make it impossible to compute.

    Train from a narrow guide where the likelihood takes exp(f),
    `WhitenedGuide(jnp.zeros(M), 0.1 * jnp.eye(M))`: under the prior itself, which
    `init` starts at, exp(f) varies so much that a descent takes far longer.

    Args:
        key: for the draws.
        priors: P processes with their inducing inputs, over the same inputs.
        guides: q(u) of each.
        X: the inputs of these data, all of them or a minibatch.
        y: their values.
        likelihood: a function from latent values (P, N), a row for each function, to a
            NumPyro distribution of batch shape (N,):
            `lambda f: dist.Categorical(logits=f.T)`,
            `lambda f: dist.Normal(f[0], jnp.exp(f[1]))`.
        n_total: the number of data that a minibatch stands for.
        n_draws: S, for each datum: points of a scrambled Sobol sequence in P
            dimensions, best a power of two.

    Returns:
        One number, of the widest float type among X and the inducing inputs.

    Raises:
        ValueError: not one guide for each prior; priors over different inputs; two
            priors with one name for hyperparameters that are to be sampled; what
            `guide.elbo` raises of data, sizes and likelihood.

    Cost: O(P (M^3 + N M^2)), and S densities a datum; S P N numbers of memory.

    Source: Saul, Hensman, Vehtari & Lawrence 2016, "Chained Gaussian processes" (arXiv
        1604.05263), section 3; draws of the marginals as in Bonilla, Krauth &
        Dezfouli 2019 (arXiv 1609.00577); Sobol points as in Buchholz, Wenzel &
        Mandt 2018 (arXiv 1807.01604).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import numpyro.distributions as dist
        >>> from pyrox.gp import RBF, SparseGPPrior, WhitenedGuide, elbo_of_several
        >>> X, y = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([0, 1, 1])
        >>> priors = [SparseGPPrior(RBF(), Z=X)] * 2
        >>> guides = [WhitenedGuide.init(3)] * 2
        >>> softmax = lambda f: dist.Categorical(logits=f.T)
        >>> def bound(key):
        ...     return elbo_of_several(key, priors, guides, X, y, likelihood=softmax)
        >>> print(f"{bound(jax.random.key(0)):.1f}")
        -2.8
    """
    call = "elbo_of_several"
    priors, guides = as_several(call, priors, guides)
    priors, data = resolved_each(call, priors), (X, y, None, likelihood)
    return bound_of_several(call, key, priors, guides, *data, n_total, n_draws)


def as_several(
    call: str, priors: Any, guides: Any
) -> tuple[tuple[SparseGPPrior, ...], tuple[AbstractGuide, ...]]:
    """Both as tuples, one guide for each prior."""
    for what, given in (("priors", priors), ("guides", guides)):
        if not isinstance(given, Sequence) or not given:
            got = (
                "an empty one" if isinstance(given, Sequence) else type(given).__name__
            )
            raise ValueError(
                f"`{call}({what})` must be a sequence, one for each latent function. "
                f"Got {got}. Pass a list of priors and a list of guides."
            )
    if len(priors) != len(guides):
        raise ValueError(
            f"`{call}` must be given one guide for each prior. Got {len(priors)} "
            f"priors and {len(guides)} guides. Pass as many of either."
        )
    for p, (prior, guide) in enumerate(zip(priors, guides, strict=True)):
        if not isinstance(prior, SparseGPPrior):
            raise ValueError(
                f"`{call}(priors[{p}])` must be a SparseGPPrior. Got a "
                f"{type(prior).__name__}. Pass `SparseGPPrior(kernel, Z)`."
            )
        as_guide(f"{call}(guides[{p}])", guide, prior)
    in_sizes = [prior.Z.shape[1] for prior in priors]
    if len(set(in_sizes)) > 1:
        raise ValueError(
            f"`{call}(priors)` must be over the same inputs. Got Z with "
            f"{in_sizes} columns. For a function of some inputs alone use "
            "`ActiveDims(kernel, dims)`, and Z with all columns."
        )
    return tuple(priors), tuple(guides)


def resolved_each(
    call: str, priors: tuple[SparseGPPrior, ...]
) -> tuple[SparseGPPrior, ...]:
    """The priors with values for their hyperparameters, and their mean functions as
    they are now."""
    names = [name for prior in priors for name in set(site_names(prior))]
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise ValueError(
            f"`{call}(priors)`: more than one of them would make the NumPyro site "
            f'{twice[0]!r}. Give each kernel a name of its own, `RBF(name="f0")`; or, '
            "for one value in all of them, sample it first, `prior = "
            "sample_hyperparameters(prior)`, and pass `[prior, prior]`."
        )
    return tuple(resolved(p, p.Z) for p in sample_hyperparameters(priors))


def bound_of_several(
    call: str,
    key: PRNGKeyArray,
    priors: tuple[SparseGPPrior, ...],
    guides: tuple[AbstractGuide, ...],
    X: Real[ArrayLike, "N D"],
    y: Real[ArrayLike, " N"],
    noise_var: Real[ArrayLike, "..."] | None,
    likelihood: Callable | None,
    n_total: int | None,
    n_draws: int,
    site: str = "",
) -> Float[Array, ""]:
    """`elbo_of_several`, as `call`, of priors that are resolved."""
    known: Any = likelihood
    require_one_of(call, noise_var, likelihood, several=True)
    n_draws = as_count(f"{call}(n_draws=...)", n_draws)
    where, in_size = f"{call}(X=...)", priors[0].Z.shape[1]
    kernels = [prior.kernel for prior in priors]
    rows = [as_inputs_of(k, where, X, in_size, at_run_time=False) for k in kernels][0]
    rows = rows.astype(common_dtype(rows, *(prior.Z for prior in priors)))
    priors = tuple(of_one_dtype(prior, rows)[0] for prior in priors)
    n = rows.shape[0]
    like = jax.ShapeDtypeStruct((len(priors), n), rows.dtype)
    law, y, _ = read_with_sites(call, y, like, known, N_POINTS, known, site)
    total = n if n_total is None else as_count(f"{call}(n_total=...)", n_total, n)
    return _bound(key, priors, guides, law, rows, y, n_total=total, n_draws=n_draws)


@functools.partial(jit, static_argnames=("n_total", "n_draws"))
def _bound(
    key: PRNGKeyArray,
    priors: tuple[SparseGPPrior, ...],
    guides: tuple[AbstractGuide, ...],
    law: ReadLikelihood,
    X: Float[Array, "N D"],
    y: Shaped[Array, " N"],
    n_total: int,
    n_draws: int,
) -> Float[Array, ""]:
    each = [_at(prior, guide, X) for prior, guide in zip(priors, guides, strict=True)]
    mean, var, divergence, found = (jnp.stack(part) for part in zip(*each, strict=True))
    ok = jnp.all(found) & law.allows(y)
    ok = ok & valid(([prior.kernel for prior in priors], guides))
    n_functions, n = mean.shape
    normal = sobol_normals_for_each(key, n_draws, n_functions, n, mean.dtype)
    # A root of zero has no derivative; what rounding leaves of it adds nothing.
    root = jnp.sqrt(jnp.maximum(var, float(jnp.finfo(var.dtype).eps) ** 2))
    drawn = jax.vmap(law.log_density_of(y))(mean[None] + root[None] * normal)
    value = n_total / n * jnp.sum(drawn) / n_draws - jnp.sum(divergence)
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)


def _at(
    prior: SparseGPPrior, guide: AbstractGuide, X: Float[Array, "N D"]
) -> tuple[Array, Array, Array, Array]:
    """Mean and variance of q(f) at `X`, KL(q(u) || p(u)), and whether there is one."""
    inducing, ok = prior.guarded_inducing()
    mean, var = prior.project(inducing, X).marginals(*guide.whitened(inducing))
    return mean, var, guide.divergence(inducing), ok
