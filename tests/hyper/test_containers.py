"""What is not an array of real numbers is read as one, or gets a sentence.

pandas, polars and torch are not installed here. The stand-ins below hand to NumPy what
these libraries hand to it.
"""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

import datetime
from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pyrox.gp import (
    RBF,
    Derivatives,
    FullRankGuide,
    GPPrior,
    Matern,
    PathwiseSampler,
    SparseGPPrior,
    substitute,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

X = np.linspace(0, 1, 5)[:, None]
y = np.sin(3 * X[:, 0])
DAYS = np.datetime64("2020-01-01") + np.arange(5)


class Column:
    """A series, frame or tensor: what NumPy sees of it."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.values, Exception):
            raise self.values
        return np.asarray(self.values, dtype)


class NAType:
    """As `pandas.NA`: no truth value, no float."""

    def __repr__(self):
        return "<NA>"

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def condition(y=y, X=X, noise_var=0.1):
    return GPPrior(RBF(), X).condition(y, noise_var)


SAME = {
    "Series": Column(y),
    "tensor of float32": Column(y.astype(np.float32)),
    "nullable Float64": Column(objects(*map(float, y))),
    "scalars as objects": Column(objects(*y)),
    "fractions": objects(*map(Fraction, map(float, y))),
    "decimals": [Decimal(float(v)) for v in y],
    "list": y.tolist(),
    "list of arrays": [jnp.float32(v) for v in y],
    "masked array without a mask": np.ma.asarray(y),
    "long double": y.astype(np.longdouble),
    "big endian": y.astype(">f8"),
}


@pytest.mark.parametrize("values", SAME.values(), ids=SAME.keys())
def test_containers_of_numbers_are_read(values):
    posterior = condition(values)
    assert posterior.y.dtype == jnp.float32
    np.testing.assert_allclose(posterior.y, y, rtol=1e-6)


def test_frames_are_read():
    mixed = np.array([[1, 2.5], [2, 0.5], [3, 1.5]], object)  # an Int64 and a Float64
    for frame in (Column(mixed), Column(mixed.astype(float)), mixed.tolist()):
        prior = GPPrior(RBF(), frame)
        np.testing.assert_array_equal(prior.X, mixed.astype(np.float32))
    whole = GPPrior(RBF(), Column(objects(1, 2, 3)[:, None]))
    np.testing.assert_array_equal(whole.X[:, 0], [1, 2, 3])


MASKED = np.ma.masked_values([1.0, 2.0, -9999.0, 4.0, 5.0], -9999.0)
WHOLE = r"must have a value everywhere. Got "
DATES = r"must be real numbers. Got dates. Count .*`\(t - t\[0\]\) / np.timedelta64"
REFUSED = {
    "masked": (MASKED, WHOLE + r"1 masked. Drop those rows from all data"),
    "masked number": ([1.0, np.ma.masked, 3.0, 4.0, 5.0], WHOLE + "1 masked"),
    "rows with masks": ([MASKED, MASKED], WHOLE + "2 masked"),
    "nullable": (Column(objects(1, 2, NAType(), 4, 5)), WHOLE + "<NA>. Drop the rows"),
    "None": ([1.0, None, 3.0, 4.0, 5.0], WHOLE + "None"),
    "null as NaN": (Column(np.array([1, np.nan, 3, 4, 5])), "must be finite. Drop or"),
    "nothing": (None, WHOLE + "None"),
    "dates": (DAYS, DATES),
    "nanoseconds": (Column(DAYS.astype("datetime64[ns]")), DATES),
    "dates in a frame": (Column(objects(*DAYS)), DATES),
    "Python dates": ([datetime.date(2020, 1, 1)] * 5, DATES),
    "timestamps of a zone": (
        objects(*[datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)] * 5),
        DATES,
    ),
    "durations": (
        DAYS - DAYS[0],
        r"Got durations. Divide by a unit: `t / np.timedelta",
    ),
    "Python durations": ([datetime.timedelta(1)] * 5, "Got durations"),
    "strings": (["1", "2", "3", "4", "5"], r"must be real numbers. Got <U1"),
    "strings as objects": (objects(*"abcde"), "must be real numbers. Got 'a', a str"),
    "bytes": (np.array([b"a"] * 5), r"real numbers. Got \|S1"),
    "a string among numbers": (objects(1, 2, "x", 4, 5), "Got 'x', a str"),
    "records": (np.zeros(5, [("a", float)]), "must be real numbers"),
    "dictionary": ({"a": 1}, "must be real numbers. Got {'a': 1}, a dict"),
    "sparse matrix": (
        csr_matrix(np.eye(5)),
        r"real numbers. Got (.|\n)*, a csr_matrix",
    ),
    "ragged": ([[1.0], [1.0, 2.0]], "of numbers. Got a list that NumPy cannot read"),
    "arrays in an array": (objects(*[np.ones(2)] * 5), "must be real numbers"),
    "tensor with a gradient": (
        Column(RuntimeError("Use tensor.detach().numpy() instead.")),
        r"Got a Column that NumPy cannot read: Use tensor.detach\(\)",
    ),
    "complex": (y + 1j, "must be real numbers. Got complex128. Pass real and imag"),
    "complex of JAX": (jnp.asarray(y) + 1j, "must be real numbers. Got complex64"),
    "complex objects": (objects(1, 2, 3, 4, 5j), "must be real numbers. Got complex"),
    "keys": (jax.random.split(jax.random.key(0), 5), "must be real numbers. Got key"),
}


@pytest.mark.parametrize("values, sentence", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_number_gets_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=rf"`GPPrior.condition\(y=...\)` .*{sentence}"):
        condition(values)


@pytest.mark.parametrize(
    "call, name",
    [
        (lambda bad: GPPrior(RBF(), bad), r"GPPrior\(X=...\)"),
        (lambda bad: SparseGPPrior(RBF(), Z=bad), r"SparseGPPrior\(Z=...\)"),
        (lambda bad: condition(noise_var=bad), r"GPPrior.condition\(noise_var=...\)"),
        (lambda bad: condition().predict(bad), r"ConditionedGP.predict\(X\)"),
        (lambda bad: Derivatives(X, 0, bad, 0.1), r"Derivatives\(values=...\)"),
        (lambda bad: Derivatives(X, 0, y, bad), r"Derivatives\(noise_var=...\)"),
        (lambda bad: Derivatives(bad, 0, y, 0.1), r"Derivatives\(X=...\)"),
        (
            lambda bad: Derivatives.of_gradients(X, bad, 0.1),
            r"Derivatives.of_gradients\(gradients\)",
        ),
        (lambda bad: RBF(1.0, bad), "RBF.lengthscale"),
        (lambda bad: Matern(0.5, 1.0, bad, name="rough"), "rough.lengthscale"),
        (lambda bad: substitute(RBF(), {"RBF.variance": bad}), "RBF.variance"),
        (lambda bad: FullRankGuide(bad, np.eye(5)), "An array"),
        (lambda bad: RBF()(bad, X), "An array"),
    ],
)
@pytest.mark.parametrize(
    "bad, sentence",
    [
        (MASKED, WHOLE + "1 masked"),
        (objects(1, 2, NAType(), 4, 5), WHOLE + "<NA>"),
        (DAYS, DATES),
        (y + 1j, "must be real numbers. Got complex"),
    ],
    ids=["masked", "nullable", "dates", "complex"],
)
def test_wherever_numbers_come_in(call, name, bad, sentence):
    with pytest.raises(ValueError, match=f"`?{name}`? {sentence}"):
        call(bad)


def test_complex_is_refused_where_it_is_traced():
    with pytest.raises(ValueError, match="must be real numbers. Got complex64"):
        jax.jit(condition)(jnp.ones(5, jnp.complex64))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
@pytest.mark.parametrize("take", [np.asarray, jnp.asarray])
def test_data_in_half_precision(take, dtype):
    def half(values):
        return take(np.asarray(values).astype(dtype))

    sentence = "must be at least float32, in which .* Pass `x.astype"
    for call in (
        lambda: GPPrior(RBF(), half(X)),
        lambda: SparseGPPrior(RBF(), half(X)),
        lambda: condition(half(y)),
        lambda: condition(noise_var=half(0.1)),
        lambda: Derivatives(half(X), 0, y, 0.1),
        lambda: Derivatives(X, 0, half(y), 0.1),
        lambda: Derivatives.of_gradients(X, half(y)[:, None], 0.1),
        lambda: jax.jit(condition)(half(y)),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()


def test_queries_in_half_precision_are_read_in_the_wider_type():
    posterior, short = condition(), X.astype(np.float16)
    paths = PathwiseSampler(posterior, 8).sample_paths(jax.random.key(0), 2)
    for f in (posterior.predict_mean, paths):
        assert f(short).dtype == jnp.float32
        np.testing.assert_array_equal(f(short), f(short.astype(np.float32)))
