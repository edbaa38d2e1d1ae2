"""A function is known by what it reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp import RBF
from pyrox.gp._numerics.closure import Closure, Programs

level = 1.0
array = np.arange(3.0)
jax_array = jnp.arange(3.0)


def helper():
    return level


def reads_a_global():
    return level


def reads_through_a_helper():
    return helper()


def reads_inside_a_lambda():
    return (lambda: level)()


def reads_an_array():
    return array


def reads_a_jax_array():
    return jax_array


def has_a_default(x=level):
    return x


def calls_itself(n):
    return calls_itself(n - 1) if n else level


READERS = [
    reads_a_global,
    reads_through_a_helper,
    reads_inside_a_lambda,
    reads_an_array,
    reads_a_jax_array,
    has_a_default,
    calls_itself,
]


@pytest.mark.parametrize("function", READERS, ids=lambda f: f.__name__)
def test_nothing_changed_is_the_same(function):
    assert Closure(function) == Closure(function)


@pytest.mark.parametrize(
    "function",
    [reads_a_global, reads_through_a_helper, reads_inside_a_lambda, calls_itself],
    ids=lambda f: f.__name__,
)
def test_a_name_that_is_bound_again_is_a_change(function, monkeypatch):
    before = Closure(function)
    monkeypatch.setattr(f"{__name__}.level", 2.0)
    assert Closure(function) != before
    monkeypatch.setattr(f"{__name__}.level", 1.0)
    assert Closure(function) == before


def test_an_array_that_is_written_to_is_a_change():
    before = Closure(reads_an_array)
    array[0] += 1
    changed = Closure(reads_an_array) != before
    array[0] -= 1
    assert changed and Closure(reads_an_array) == before


def test_another_jax_array_is_a_change(monkeypatch):
    before = Closure(reads_a_jax_array)
    monkeypatch.setattr(f"{__name__}.jax_array", jnp.arange(3.0))
    assert Closure(reads_a_jax_array) != before


def test_variables_of_the_function_around_are_read():
    level = 1.0

    def inner():
        return level

    def later():
        return unbound

    before = Closure(inner)
    assert Closure(later) == Closure(later)
    level, unbound = 2.0, 3.0
    assert Closure(inner) != before and later() == 3.0


def test_a_kernel_that_is_given_another_prior_is_a_change():
    import numpyro.distributions as dist

    kernel = RBF()

    def reads_the_kernel():
        return kernel

    before = Closure(reads_the_kernel)
    assert Closure(reads_the_kernel) == before
    kernel.set_prior("variance", dist.LogNormal(0.0, 1.0))
    assert Closure(reads_the_kernel) != before


def test_callable_objects_are_known_by_themselves():
    one, other = functools.partial(max, 1), functools.partial(max, 1)
    assert Closure(one) == Closure(one) != Closure(other)
    assert Closure(one) != one


def test_tracers_are_noticed():
    seen = []

    @jax.jit
    def program(x):
        seen.append(Closure(lambda: x).traced)
        return x

    program(1.0)
    assert seen == [True] and not Closure(reads_a_jax_array).traced


def test_the_last_few_programs_are_kept():
    built = []

    def build(function):
        built.append(function)
        return lambda: function()

    programs = Programs(build, most=2)
    functions = [lambda i=i: i for i in range(3)]
    assert [programs.run(f) for f in functions] == [0, 1, 2]
    assert programs.run(functions[2]) == 2 and len(built) == 3
    assert programs.run(functions[0]) == 0 and len(built) == 4


def test_what_a_function_changes_itself_is_no_news():
    counts, built = [], []

    def counts_its_calls():
        counts.append(None)

    programs = Programs(lambda f: built.append(f) or f)
    programs.run(counts_its_calls)
    programs.run(counts_its_calls)
    assert len(built) == 1 and len(counts) == 2
    counts.clear()
    programs.run(counts_its_calls)
    assert len(built) == 2
