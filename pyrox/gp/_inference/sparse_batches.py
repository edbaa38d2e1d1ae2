"""The same by minibatches: a natural-gradient step for q(u), then one of Adam for the
rest, in turns.

In whitened space q(v) has the precision P and the mean m. A batch of B of N data has
the sites of `natural`, times N / B. A step of rate r leads to

    P <- (1 - r) P + r (I + sum_i b_i a_i a_i^T),   m <- m + r P^-1 (dE/dm - m)

with the new P. With heavy tails some b_i are negative, and P may be no precision. Then
with Q = P without these it is, to the same order in r and positive in any case,

    P^-1 <- Q^-1 + r Q^-1 (sum_{b_i < 0} -b_i a_i a_i^T) Q^-1
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PRNGKeyArray, Shaped
from tqdm.auto import tqdm

from .._hyper.unchecked import jit
from .._posterior.likelihood import AbstractLikelihood
from .._posterior.natural import Whitened, from_precision
from .._posterior.sparse import SparseGPPrior
from .._solvers.cholesky import factor, guarded_factor
from .sparse_problem import SparseProblem, from_vector, log_prior, to_vector

_STEPS_A_CALL = 100
_LAST = 0.01  # the last rates, in parts of the first


class Rates(NamedTuple):
    """What a run is made of: rates to begin with, and the number of steps."""

    natural: Float[Array, ""]
    adam: Float[Array, ""]
    n_steps: Int[Array, ""]

    def share(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """What is left of both rates: a half cosine to the last."""
        done = step.astype(self.adam.dtype) / self.n_steps.astype(self.adam.dtype)
        return _LAST + (1 - _LAST) * 0.5 * (1 + jnp.cos(jnp.pi * done))


class Run(NamedTuple):
    """Where a run stands. `bound` is the last batch's estimate."""

    q: Whitened
    precision: Float[Array, "M M"]
    point: Float[Array, " P"]
    adam: Any
    bound: Float[Array, ""]
    step: Int[Array, ""]


def run_batches(
    problem: SparseProblem,
    key: PRNGKeyArray,
    rates: Rates,
    batch_size: int,
    progress: bool,
) -> Run:
    """A whole run, from the prior as q."""
    run, most, limit = _begin(problem), int(rates.n_steps), 0
    with tqdm(total=most, desc="fit_sparse", disable=not progress) as bar:
        while limit < most:
            before, limit = limit, min(limit + _STEPS_A_CALL, most)
            run = _advance(problem, run, key, rates, np.int32(limit), batch_size)
            bar.set_postfix_str(f"bound about {float(run.bound):.6g}")
            bar.update(limit - before)
    return run


def _adam() -> Any:
    import optax  # takes a tenth of a second, which only those who fit should wait

    return optax.scale_by_adam()


@jit
def _begin(problem: SparseProblem) -> Run:
    m, dtype = problem.prior.Z.shape[0], problem.X.dtype
    zero, eye = jnp.zeros((), dtype), jnp.eye(m, dtype=dtype)
    point = to_vector(problem)
    q = Whitened(jnp.zeros(m, dtype), eye, zero)
    return Run(q, eye, point, _adam().init(point), zero, jnp.zeros((), jnp.int32))


def _advance_to(
    problem: SparseProblem,
    run: Run,
    key: PRNGKeyArray,
    rates: Rates,
    limit: ArrayLike,
    batch_size: int,
) -> Run:
    def step(run):
        rows = jr.randint(jr.fold_in(key, run.step), (batch_size,), 0, problem.n_data)
        return _step(problem, run, rates, rows)

    return jax.lax.while_loop(lambda run: run.step < limit, step, run)


_advance = jit(_advance_to, static_argnames="batch_size")


def _step(
    problem: SparseProblem, run: Run, rates: Rates, rows: Int[Array, " B"]
) -> Run:
    X, y, q = problem.X[rows], problem.y[rows], run.q
    scale = problem.n_data / rows.shape[0]

    def total(point, shift):
        """The bound without KL(q(v) || N(0, I)), in which only q(v) stands. Its slope
        by a shift of the moments is that by the moments."""
        prior, law = from_vector(problem, point)
        inducing, ok = prior.guarded_inducing()
        projection = prior.project(inducing, X)
        mean, var = projection.marginals(q.mean, q.root)
        expected = law.rows(rows).expected(mean + shift[0], var + shift[1], y)
        value = scale * jnp.sum(expected) + log_prior(problem, prior, law)
        return value, (projection.explained, ok)

    still = jnp.zeros((2, rows.shape[0]), X.dtype)
    differentiated = jax.value_and_grad(total, (0, 1), has_aux=True)
    (value, (A, ok)), (slope, moments) = differentiated(run.point, still)
    share = rates.share(run.step)
    weights, pull = -2 * moments[1], A @ moments[0]
    new, precision, fine = _natural_step(run, A, weights, pull, share * rates.natural)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes widths of integers
        moves, adam = _adam().update(slope / problem.n_data, run.adam)
    point = run.point + share * rates.adam * moves
    stepped = Run(new, precision, point, adam, value - q.divergence, run.step + 1)
    # A batch without a bound is passed over.
    ok = ok & fine & jnp.isfinite(value) & jnp.all(jnp.isfinite(slope))
    chosen = jax.tree.map(lambda a, b: jnp.where(ok, a, b), stepped, run)
    return chosen._replace(step=run.step + 1)


def _natural_step(
    run: Run,
    A: Float[Array, "M B"],
    weights: Float[Array, " B"],
    pull: Float[Array, " M"],
    rate: Float[Array, ""],
) -> tuple[Whitened, Float[Array, "M M"], Bool[Array, ""]]:
    """The new q(v), its precision, and whether there is one."""
    eye, zero = jnp.eye(A.shape[0], dtype=A.dtype), jnp.zeros((), A.dtype)
    above, below = jnp.maximum(weights, 0), jnp.maximum(-weights, 0)
    Q = (1 - rate) * run.precision + rate * (eye + (A * above[None]) @ A.T)
    less = rate * (A * below[None]) @ A.T
    _, is_precision = guarded_factor(Q - less, zero)

    def positive():
        root = factor(Q, zero)
        T = root.whiten(A * jnp.sqrt(rate * below)[None])
        half = factor(T @ T.T, jnp.ones_like(zero)).whiten(root.lower.T)
        return half.T @ half

    precision = jax.lax.cond(is_precision, lambda: Q - less, positive)
    moved, ok = from_precision(precision - eye, rate * (pull - run.q.mean))
    mean = run.q.mean + moved.mean
    # The divergence that came back is that of another mean.
    divergence = moved.divergence + 0.5 * (jnp.sum(mean**2) - jnp.sum(moved.mean**2))
    return Whitened(mean, moved.root, divergence), precision, ok


@jit
def bound_by_blocks(
    problem: SparseProblem,
    prior: SparseGPPrior,
    law: AbstractLikelihood,
    q: Whitened,
    blocks: Int[Array, "K B"],
    counts: Bool[Array, "K B"],
) -> Float[Array, ""]:
    """The evidence lower bound of all data, a block at a time; the rows that do not
    count fill up the last."""
    inducing, ok = prior.guarded_inducing()

    def expected(block: tuple[Shaped[Array, " B"], Bool[Array, " B"]]) -> Array:
        rows, own = block
        projection = prior.project(inducing, problem.X[rows])
        mean, var = projection.marginals(q.mean, q.root)
        values = law.rows(rows).expected(mean, var, problem.y[rows])
        return jnp.sum(jnp.where(own, values, 0))

    value = jnp.sum(jax.lax.map(expected, (blocks, counts))) - q.divergence
    return jnp.where(ok & jnp.isfinite(value), value, -jnp.inf)


def blocks_of(n: int, batch_size: int) -> tuple[Array, Array]:
    """All rows in blocks of one size, and which of them count."""
    rows = np.arange(-(-n // batch_size) * batch_size).reshape(-1, batch_size)
    return jnp.asarray(np.minimum(rows, n - 1)), jnp.asarray(rows < n)
