"""The least time in which this machine can evaluate paths, from rates measured on it.

Every product at the rate of a large matrix product, every elementwise instruction at
the rate of fused multiply-adds on data in cache, square roots at the rate of a chain of
them. Nothing for memory, launches or threads.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from .cases import Case

_SIDE, _IN_CACHE = 2048, (500, 1000)
_LENGTH, _CHAINS = 32, 8


def prepare(case: Case) -> Callable[[], float]:
    """A call that measures the rates anew and returns the seconds of the case."""
    A = jnp.ones((_SIDE, _SIDE), case.dtype)
    x = jnp.full(_IN_CACHE, 0.5, case.dtype)
    quarter = np.asarray(0.25, case.dtype)

    @jax.jit
    def multiply_adds(x):
        chains = [x + i for i in range(_CHAINS)]  # side by side, to hide latency
        for _ in range(_LENGTH):
            chains = [total * x + quarter for total in chains]
        return sum(chains)

    @jax.jit
    def roots(x):
        for _ in range(_LENGTH):
            x = jnp.sqrt(x)
        return x

    product = jax.jit(lambda A: A @ A)

    def call():
        flop = _seconds(product, A) / (2 * _SIDE**3)
        instruction = _seconds(multiply_adds, x) / (_CHAINS * _LENGTH * x.size)
        root = _seconds(roots, x) / (_LENGTH * x.size)
        pairs = case.n_query * case.n_features / 2
        grams = case.n_query * case.n_data
        flops = 2 * case.n_query * (case.n_features + case.n_data) * case.n_paths
        flops += 2 * pairs * case.in_size
        instructions = pairs * _sincos(case.dtype) + grams * _matern(case)
        return flops * flop + instructions * instruction + grams * root

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

    The multiple of pi: 4 for both. Then for each: the parts of pi/2 and the terms of
    the polynomial, one apiece; its argument and last steps: 4; the sign: 4.
    """
    parts, terms = {"float32": (4, 5), "float64": (3, 8)}[dtype]
    return 4 + 2 * (parts + terms + 8)


def _matern(case: Case) -> int:
    """For a Gram entry: difference, scale and square for each input, the polynomial: 6,
    the exponential of XLA: some 20 in float32, 26 in float64."""
    exponential = {"float32": 20, "float64": 26}[case.dtype]
    return 3 * case.in_size + 6 + exponential
