"""Programs are equal if they compute the same."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp._numerics.closure import read

ONE = np.ones((1,))


def program(function, x: Any = ONE):
    return read("f", function, x).program


def with_rule(slope):
    @jax.custom_jvp
    def f(x):
        return x

    f.defjvp(lambda x, t: (x[0], slope * t[0]))
    return f


def with_backward(slope):
    @jax.custom_vjp
    def f(x):
        return x

    f.defvjp(lambda x: (x, None), lambda _, g: (slope * g,))
    return f


def on_the_host(function):
    def f(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda x: function(np.asarray(x)), shape, x)

    return f


def loop(n):
    return lambda x: jax.lax.fori_loop(0, n, lambda _, x: 2 * x, x)


def inner(c):
    return lambda x: jax.jit(lambda x: c * x)(x)


# Two of a kind that differ, each made anew at every call.
PAIRS = {
    "last digit": (lambda: lambda x: 0.1 * x, lambda: lambda x: (0.1 + 2e-17) * x),
    "sign of zero": (lambda: lambda x: x + 0.0, lambda: lambda x: x + -0.0),
    "operation": (lambda: jnp.sin, lambda: jnp.cos),
    "order": (lambda: lambda x: x - 2 * x, lambda: lambda x: 2 * x - x),
    "parameter": (lambda: lambda x: jnp.cumsum(x), lambda: lambda x: x.sum(0)[None]),
    "type": (lambda: lambda x: x.astype("float32"), lambda: lambda x: x),
    "under jit": (lambda: inner(2.0), lambda: inner(3.0)),
    "loop": (lambda: loop(2), lambda: loop(3)),
    "jvp rule": (lambda: with_rule(1.0), lambda: with_rule(2.0)),
    "vjp rule": (lambda: with_backward(1.0), lambda: with_backward(2.0)),
    "callback": (lambda: on_the_host(np.sin), lambda: on_the_host(np.cos)),
    "error": (
        lambda: lambda x: eqx.error_if(x, x[0] > 9, "one"),
        lambda: lambda x: eqx.error_if(x, x[0] > 9, "other"),
    ),
    "relu": (lambda: lambda x: jax.nn.relu(x), lambda: lambda x: jax.nn.relu6(x)),
    "softplus": (lambda: lambda x: jax.nn.softplus(x), lambda: lambda x: jax.nn.elu(x)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_exactly_if_the_same_is_computed(name, x64):
    make, other = PAIRS[name]
    assert program(make()) == program(make())
    assert hash(program(make())) == hash(program(make()))
    assert program(make()) != program(other())


def test_a_neighbouring_float_is_another_number(x64):
    c = 1 / 3
    assert program(lambda x: c * x) == program(lambda x: c * x)
    for width, x in ((np.float64, ONE), (np.float32, ONE.astype(np.float32))):
        near = [width(c), np.nextafter(width(c), width(1))]
        programs = [program(lambda x, c=c: c * x, x) for c in near]
        assert programs[0] != programs[1]


def test_types_and_shapes_of_arguments_count(x64):
    f = jnp.sin
    assert program(f) != program(f, ONE.astype(np.float32))
    assert program(f) != program(f, np.ones((2,)))
