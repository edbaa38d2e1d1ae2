"""The least time in which this machine can evaluate paths, from rates measured on it.

Every product at the rate of a large matrix product, every elementwise instruction at
the rate of a fused chain of multiply-adds on data in cache, exponential and square root
at the rates of XLA's vectorised ones. Nothing for memory, launches or threads.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .cases import Case

_SIDE, _CHAIN = 2048, 64
_IN_CACHE = (500, 1000)


def prepare(case: Case) -> Callable[[], float]:
    """A call that measures the rates anew and returns the seconds of the case."""
    A = jnp.ones((_SIDE, _SIDE), case.dtype)
    x = jnp.full(_IN_CACHE, 0.5, case.dtype)
    product = jax.jit(lambda A: A @ A)
    exponential, root = jax.jit(lambda x: jnp.exp(x)), jax.jit(lambda x: jnp.sqrt(x))

    @jax.jit
    def chain(x):
        total = x
        for _ in range(_CHAIN):
            total = total * x + np.asarray(0.25, x.dtype)
        return total

    def call():
        flop_rate = 2 * _SIDE**3 / _seconds(product, A)
        instruction_rate = _CHAIN * x.size / _seconds(chain, x)
        pairs = case.n_query * case.n_features / 2
        grams = case.n_query * case.n_data
        products = 2 * case.n_query * (case.n_features + case.n_data) * case.n_paths
        products += 2 * pairs * case.in_size
        instructions = pairs * _sincos(case.dtype) + grams * _matern(case.in_size)
        special = _seconds(exponential, x) / x.size + _seconds(root, x) / x.size
        return products / flop_rate + instructions / instruction_rate + grams * special

    return call


def _seconds(program: Callable, x: jax.Array) -> float:
    """The fastest of several runs: a rate that the machine can reach."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        program(x).block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)


def _sincos(dtype: str) -> int:
    """Vector instructions for a sine and a cosine of one angle.

    Multiple of pi/2: 2; its parts taken off: one each; r^2: 1; the polynomials: their
    terms, and 3 and 4 more; the quadrant: 7 integer instructions, 4 choices, 2 signs.
    """
    parts, terms = {"float32": (4, 2), "float64": (3, 5)}[dtype]
    return 2 + parts + 1 + (terms + 3) + (terms + 4) + 13


def _matern(in_size: int) -> int:
    """A Gram entry: difference, scale and square for each input, then a polynomial of
    degree two times the exponential."""
    return 3 * in_size + 6
