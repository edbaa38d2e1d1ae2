"""A function is read by tracing it: what it computes, and what it closed over."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compilations

from pyrox.gp._numerics.closure import Closure, read

ONE = jnp.ones((1,), jnp.float32)

level = 1.0
array = np.arange(3.0, dtype=np.float32)
table = {"level": 1.0, "levels": [1.0]}


class Model:
    shift = 1.0

    def __init__(self, level):
        self.level = level

    def __call__(self, x):
        return self.level * x

    def predict(self, x):
        return self.level * x

    def predict_shifted(self, x):
        return x + self.shift


model = Model(1.0)


def helper():
    return level


def inside_a_lambda(x):
    return (lambda: level)() * x


def calls_itself(x, n=3):
    return calls_itself(x, n - 1) if n else level * x


def now(function) -> Closure:
    return read("f", function, ONE)


def same(a: Closure, b: Closure) -> bool:
    equal = all(map(np.array_equal, a.consts, b.consts))
    return a.program == b.program and len(a.consts) == len(b.consts) and equal


# A function of each kind that reads something, and what changes it.
READERS = {
    "global": (lambda x: level * x, "level"),
    "helper": (lambda x: helper() * x, "level"),
    "inside a lambda": (inside_a_lambda, "level"),
    "recursion": (calls_itself, "level"),
    "array": (lambda x: x + array[:1], "array"),
    "array in jnp": (lambda x: x + jnp.asarray(array)[0], "array"),
    "dict": (lambda x: table["level"] * x, "dict"),
    "list": (lambda x: table["levels"][0] * x, "list"),
    "callable object": (model, "attribute"),
    "bound method": (model.predict, "attribute"),
    "class attribute": (model.predict_shifted, "class"),
}


def change(what, monkeypatch):
    if what == "level":
        monkeypatch.setitem(globals(), "level", 2.0)
    elif what == "array":
        monkeypatch.setitem(globals(), "array", array.copy())
        array[0] = 5.0
    elif what == "dict":
        monkeypatch.setitem(table, "level", 2.0)
    elif what == "list":
        monkeypatch.setitem(table, "levels", [2.0])
    elif what == "attribute":
        monkeypatch.setattr(model, "level", 2.0)
    else:
        monkeypatch.setattr(Model, "shift", 2.0)


@pytest.mark.parametrize("name", READERS)
def test_what_a_function_reads_is_read(name, monkeypatch):
    function, what = READERS[name]
    before, value = now(function), function(ONE)
    assert same(before, now(function))
    change(what, monkeypatch)
    assert not same(before, now(function))
    assert now(function)(ONE) == function(ONE) != value
    assert before(ONE) == value  # what was read stays
    monkeypatch.undo()
    assert same(before, now(function))


def test_an_array_that_is_written_to_is_read_as_it_was():
    values = np.arange(3.0, dtype=np.float32)
    before = now(lambda x: x + jnp.asarray(values).sum())
    by_numpy = now(lambda x: x + values)
    values += 1
    assert before(ONE) == 4.0 and np.array_equal(by_numpy(ONE), [1.0, 2.0, 3.0])


def test_equal_functions_share_a_program():
    @jax.jit
    def run(closure, x):
        return closure(x)

    def made(c, values):
        return lambda x: jax.nn.relu(c * x) + jnp.asarray(values).sum()

    run(now(made(0.5, np.ones(4, np.float32))), ONE)
    with compilations() as programs:
        value = run(now(made(0.5, np.full(4, 2.0, np.float32))), ONE)
    assert value == 8.5 and not programs
    with compilations() as programs:
        assert run(now(made(0.25, np.ones(4, np.float32))), ONE) == 4.25
    assert len(programs) == 1


def test_values_traced_further_out_are_leaves():
    def square(t):
        closure = read("f", lambda x: t * jnp.sin(t * x), ONE)
        assert closure.traced
        return closure(ONE).sum(), closure

    def expected(t):
        return t * np.sin(t)

    value, closure = jax.jit(square)(2.0)
    np.testing.assert_allclose(value, expected(2.0), rtol=1e-6)
    np.testing.assert_allclose(closure(ONE), [expected(2.0)], rtol=1e-6)
    values, closures = jax.vmap(square)(jnp.arange(3.0))
    np.testing.assert_allclose(values, expected(np.arange(3.0)), rtol=1e-6)
    np.testing.assert_allclose(closures.consts[0], np.arange(3.0))
    slope = jax.grad(lambda t: square(t)[0])(2.0)
    np.testing.assert_allclose(slope, np.sin(2.0) + 2 * np.cos(2.0), rtol=1e-6)


@pytest.mark.exhaustive
def test_no_tracer_is_left_behind():
    def run(t):
        return now(lambda x: jax.nn.relu(t * x))(ONE)

    with jax.checking_leaks():
        assert jax.jit(run)(2.0) == 2.0 and jax.vmap(run)(jnp.ones(2)).shape == (2, 1)


def test_a_float_of_another_width_is_brought_to_that_of_the_trace(x64):
    closure = read("f", lambda x: x + jnp.asarray(array)[0], ONE)
    assert closure(np.ones(1)).dtype == np.float32
    cast = eqx.tree_at(lambda c: c.consts, closure, [np.arange(3.0)])
    assert cast(ONE) == 1.0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.asarray(np.sin(x)),
        lambda x: x if x[0] > 0 else -x,
        lambda x: jnp.asarray(float(x[0])),
        lambda x: x * np.arange(3)[jnp.argmax(x)],
    ],
)
def test_what_cannot_be_traced_is_said(function):
    with pytest.raises(ValueError, match=r"`f` must be .*jax.numpy.*pure_callback"):
        now(function)
