"""`optimize_acquisition` against dense search; derivatives, programs, bad input."""

# Wrong arguments are passed on purpose.
# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import central_difference, compilations

from pyrox.gp import (
    RBF,
    FourierGrid,
    GPPrior,
    PathwiseSampler,
    confidence_bound,
    expected_improvement,
    joint_entropy,
    knowledge_gradient,
    log_expected_improvement,
    max_value_entropy,
    optimize_acquisition,
    optimize_paths,
)

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KEY = jax.random.key(0)
X = np.array([[0.05, 0.1], [0.3, 0.8], [0.55, 0.4], [0.9, 0.65], [0.7, 0.05]])
Y = np.array([0.6, -0.4, 0.2, 0.9, -0.1])
SQUARE = np.array([[0.0, 0.0], [1.0, 1.0]])
LINE = SQUARE[:, :1]
FEW: dict[str, Any] = {"n_candidates": 128, "n_starts": 16}


def posterior(y=Y, x=X, ell: Any = 0.3, noise_var: Any = 0.01, variance: Any = 1.0):
    return GPPrior(RBF(variance, ell), x).condition(y, noise_var)


def on_line(y=Y, **options):
    return posterior(y, X[:, :1], **options)


def log_ei(f, best=-0.4):
    return lambda X: log_expected_improvement(f, X, best)


def drawn(n_paths=64, basis: Any = "sobol"):
    return PathwiseSampler(on_line(), 64, basis).sample_paths(KEY, n_paths)


def grid_of(side):
    return np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)


@pytest.mark.exhaustive
def test_no_point_of_a_dense_grid_is_better(x64):
    f = log_ei(posterior())
    found = optimize_acquisition(KEY, f, SQUARE)
    assert found.X.shape == (1, 2) and found.value.shape == () and found.converged
    highest = np.asarray(f(grid_of(np.linspace(0, 1, 101)))).max()
    assert highest - 1e-12 < found.value < highest + 0.1
    np.testing.assert_allclose(found.value, f(found.X)[0], rtol=1e-9)
    assert 1024 < found.n_evaluations < 1024 + 20 * 64


@pytest.mark.exhaustive
def test_a_batch_is_found_jointly(x64):
    """No pair of a grid is better; two copies of the best single point are worse."""
    paths = drawn()

    def f(pairs):
        return expected_improvement(paths, pairs, -0.4)

    found = optimize_acquisition(KEY, f, LINE, 2)
    pairs = grid_of(np.linspace(0, 1, 81))[:, :, None]
    assert found.X.shape == (2, 1) and found.value >= np.asarray(f(pairs)).max() - 1e-12
    alone = optimize_acquisition(
        KEY, lambda X: expected_improvement(paths, X, -0.4), LINE
    )
    assert found.value > 1.1 * f(jnp.stack([alone.X] * 2, 1))[0]


ACQUISITIONS: dict[str, Any] = {
    "bound": lambda f, _: lambda X: confidence_bound(f, X),
    "MES": lambda f, found: lambda X: max_value_entropy(f, X, found),
    "JES": lambda f, found: lambda X: joint_entropy(f, X, found, noise_var=0.01),
    "KG": lambda f, _: lambda X: knowledge_gradient(f, X, GRID, noise_var=0.01),
}
GRID = np.linspace(0, 1, 21)[:, None]


@pytest.mark.exhaustive
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ACQUISITIONS)
def test_every_acquisition_can_be_optimised(name, bits):
    with jax.enable_x64(bits == 64):
        dtype = np.dtype(f"float{bits}")
        f = on_line(Y.astype(dtype))
        paths = PathwiseSampler(f, 64).sample_paths(KEY, 16)
        acquisition = ACQUISITIONS[name](f, optimize_paths(KEY, paths, LINE))
        found = optimize_acquisition(KEY, acquisition, LINE)
        grid = np.asarray(acquisition(np.linspace(0, 1, 401)[:, None]))
        assert found.X.dtype == found.value.dtype == dtype and found.converged
        assert found.value > grid.max() - 1e-5
        assert (found.X >= 0).all() and (found.X <= 1).all()


@pytest.mark.exhaustive
def test_nothing_compiles_anew_for_new_data(x64):
    """A fresh function each time, of new data, hyperparameters, incumbent and bounds:
    none of four calls compiles. With a twin: one under a `jit` of its own does."""

    def a_round(k, wrap=lambda f: f):
        f = on_line(Y + 0.1 * k, ell=0.3 + 0.01 * k, variance=1.0 + 0.1 * k)
        best, box = float(Y.min() + 0.1 * k), LINE * (1 + 0.01 * k)
        g = wrap(lambda X: log_expected_improvement(f, X, best))
        return optimize_acquisition(jax.random.key(k), g, box, **FEW).X

    points = [a_round(0)]
    highest = log_ei(on_line(), -0.4)(np.linspace(0, 1, 201)[:, None]).max()
    assert highest - 1e-12 < log_ei(on_line(), -0.4)(points[0])[0] < highest + 0.1
    with compilations() as programs:
        points += [a_round(k) for k in range(1, 5)]
    assert programs == [] and len({float(x[0, 0]) for x in points}) == 5
    with compilations() as programs:
        a_round(5, jax.jit)
    assert programs != []


def of_pairs(f):
    """Smooth, with one maximum for each order of the pair."""

    def values(pairs):
        n = pairs.shape[0]
        mean, var = f.predict(pairs.reshape(-1, 1))
        apart = (pairs[:, 0, 0] - pairs[:, 1, 0] + 0.35) ** 2
        return jnp.sum((var - mean).reshape(n, 2), axis=1) - 5 * apart

    return values


@pytest.mark.exhaustive
@pytest.mark.parametrize("q", [1, 2])
def test_points_and_value_have_derivatives(q, x64):
    """By data, noise and bounds: against Newton's steps for changed ones."""

    def acquisition(y, noise_var):
        f = on_line(y, noise_var=noise_var)
        return log_ei(f) if q == 1 else of_pairs(f)

    def best(y, noise_var, box):
        found = optimize_acquisition(KEY, acquisition(y, noise_var), box, q, **FEW)
        return jnp.append(found.X.reshape(-1), found.value)

    def by_newton(y, noise_var):
        f = acquisition(y, noise_var)

        def value(x):
            return f(x.reshape(1, 1) if q == 1 else x.reshape(1, 2, 1))[0]

        def step(_, x):
            return x - jnp.linalg.solve(jax.hessian(value)(x), jax.grad(value)(x))

        x = jax.lax.fori_loop(0, 4, step, start)
        return jnp.append(x, value(x))

    args = [jnp.asarray(a) for a in (Y, np.array(0.01), LINE)]
    start = best(*args)[:q]
    got = jax.jit(jax.jacrev(best, (0, 1, 2)))(*args)
    newton = jax.jit(by_newton)
    np.testing.assert_allclose(newton(*args[:2]), best(*args), atol=1e-6)
    for k in range(2):
        for row in range(q + 1):

            def moved(a, k=k, row=row):
                return newton(*args[:k], jnp.asarray(a), *args[k + 1 : 2])[row]

            expected = central_difference(moved, args[k])
            np.testing.assert_allclose(got[k][row], expected, rtol=1e-4, atol=1e-6)
    assert np.abs(got[0][0]).max() > 1e-2
    np.testing.assert_allclose(got[2], 0, atol=1e-6)  # it lies inside


@pytest.mark.exhaustive
def test_what_a_bound_holds_moves_with_it(x64):
    """-(x + y - c)^2 over y >= 2, at its lowest x + y: at the corner."""

    def best(c, box):
        def f(X):
            return -((X[:, 0] + X[:, 1] - c) ** 2) - X[:, 1]

        found = optimize_acquisition(KEY, f, box, **FEW)
        both = found.X[0], found.value
        return both, both

    box = jnp.asarray([[0.0, 2.0], [5.0, 4.0]])
    program = jax.jit(jax.jacrev(best, (0, 1), has_aux=True))
    slopes, (point, value) = program(3.0, box)
    np.testing.assert_allclose(point, [1.0, 2.0], atol=1e-6)
    np.testing.assert_allclose(value, -2.0, atol=1e-9)
    np.testing.assert_allclose(slopes[0][0], [1.0, 0.0], atol=1e-6)
    moves = np.zeros((2, 2, 2))
    moves[0, 0, 1], moves[1, 0, 1] = -1, 1
    np.testing.assert_allclose(slopes[0][1], moves, atol=1e-6)


@pytest.mark.exhaustive
def test_jit_and_vmap_give_the_same(x64):
    def best(y, key=KEY):
        found = optimize_acquisition(key, log_ei(on_line(y)), LINE, **FEW)
        return found.X[0, 0], found.value, found.converged

    ys = jnp.stack([Y, Y[::-1], 2 * Y])
    plain = [best(y) for y in ys]
    traced = jax.jit(best)(ys[0])
    np.testing.assert_allclose(traced, plain[0], atol=1e-6)
    mapped = jax.vmap(best)(ys)
    np.testing.assert_allclose(np.stack(mapped, axis=1), plain, atol=1e-6)
    keys = jax.random.split(KEY, 3)
    found = jax.jit(jax.vmap(best, (None, 0)))(ys[0], keys)
    np.testing.assert_allclose(found[1], plain[0][1], atol=1e-9)


@pytest.mark.exhaustive
def test_whole_numbers_move_to_better_neighbours(x64):
    """From one candidate, wherever it is, up a hill."""

    def hill(X):
        return -jnp.sum((X - jnp.array([[13.2, 0.3]])) ** 2, axis=1)

    box = np.array([[-0.5, 0.0], [30.4, 1.0]])
    few: Any = {"n_candidates": 1, "n_starts": 1, "integers": (0,)}
    found = optimize_acquisition(KEY, hill, box, **few)
    np.testing.assert_allclose(found.X, [[13.0, 0.3]], atol=1e-6)
    assert found.converged


@pytest.mark.exhaustive
def test_whole_numbers_of_a_batch(x64):
    def hill(X):
        far = (X - jnp.array([[[3.2, 0.3], [7.7, 0.6]]])) ** 2
        return -jnp.sum(far, axis=(1, 2))

    box = np.array([[0.0, 0.0], [10.0, 1.0]])
    found = optimize_acquisition(KEY, hill, box, 2, integers=(0,), **FEW)
    np.testing.assert_allclose(found.X, [[3.0, 0.3], [8.0, 0.6]], atol=1e-6)


@pytest.mark.exhaustive
def test_points_included_are_starts(x64):
    """A peak too narrow for candidates, moved to from outside of the box, too."""

    def peak(X):
        near = jax.nn.relu(1 - 1e4 * jnp.sum((X - 1) ** 2, axis=2))
        return jnp.sum(near**2, axis=1)

    there = np.array([[1.0, 1.003], [0.999, 5.0]])
    assert optimize_acquisition(KEY, peak, SQUARE, 2, **FEW).value < 1
    found = optimize_acquisition(KEY, peak, SQUARE, 2, include=there, **FEW)
    np.testing.assert_allclose(found.X, 1.0)


@pytest.mark.exhaustive
def test_where_it_is_no_number_it_is_not_high(x64):
    def f(X):
        slope = jnp.log(X[:, 0] - 0.5)  # NaN below, -inf at 0.5
        return slope - X[:, 0]

    found = optimize_acquisition(KEY, f, LINE, **FEW)
    np.testing.assert_allclose(found.X, 1.0)
    level = optimize_acquisition(KEY, lambda X: 0 * X[:, 0], LINE, **FEW)
    assert level.value == 0 and 0 <= level.X[0, 0] <= 1
    nowhere = optimize_acquisition(KEY, lambda X: jnp.nan * X[:, 0], LINE, **FEW)
    assert nowhere.value == -jnp.inf and not nowhere.converged


@pytest.mark.exhaustive
def test_units_of_points_and_values_do_not_matter(x64):
    found = []
    for a, s in ((1.0, 1.0), (1e6, 1e-9), (1e-6, 1e9)):
        f = on_line()
        g = optimize_acquisition(
            KEY,
            lambda X, f=f, a=a, s=s: s * expected_improvement(f, X / a, -0.4),
            a * LINE,
            **FEW,
        )
        assert g.converged
        found.append([g.X[0, 0] / a, g.value / s])
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-6)


@pytest.mark.exhaustive
def test_the_type_is_the_wider_of_bounds_and_function(x64):
    single = np.float32
    f = GPPrior(RBF(single(1), single(0.3)), X[:, :1].astype(single)).condition(
        Y.astype(single), single(0.01)
    )

    def narrow(X):
        return log_expected_improvement(f, X.astype(single), -0.4)

    exact = optimize_acquisition(KEY, log_ei(on_line()), LINE, **FEW)
    for g, box, dtype in (
        (log_ei(f), LINE.astype(single), single),
        (narrow, LINE, np.float64),
        (log_ei(on_line()), LINE.astype(single), np.float64),
    ):
        found = optimize_acquisition(KEY, g, box, **FEW)
        assert found.X.dtype == dtype and found.converged
        np.testing.assert_allclose(found.value, exact.value, rtol=1e-3)


# --- Bad input ------------------------------------------------------------------------


def run(f=None, bounds: Any = LINE, q: Any = 1, **options):
    f = (lambda X: -(X[:, 0] ** 2)) if f is None else f
    return optimize_acquisition(KEY, f, bounds, q, **options)


BAD: dict[str, Any] = {
    "must have shape (2, D)": lambda: run(bounds=[0.0, 1.0]),
    "of the D inputs. Got (3, 1)": lambda: run(bounds=np.zeros((3, 1))),
    "below the upper": lambda: run(bounds=LINE[::-1]),
    "Got 0.5 to 0.5": lambda: run(bounds=[[0.5], [0.5]]),
    "bounds=...)` must be finite": lambda: run(bounds=[[0.0], [np.inf]]),
    "(q=...)` must be a whole number of at least 1": lambda: run(q=0),
    "at least 1, known before tracing. Got 1.5": lambda: run(q=1.5),
    "(n_candidates=...)` must be": lambda: run(n_candidates=0),
    "(n_starts=...)` must be": lambda: run(n_starts=-1),
    "numbers of inputs": lambda: run(integers=(1,)),
    "hold a whole number": lambda: run(bounds=[[0.2], [0.8]], integers=(0,)),
    "include=...)` must have shape (N, 1)": lambda: run(include=np.ones((3, 2))),
    "whole batches of q=2 points": lambda: run(q=2, include=np.ones((3, 1))),
    "must be a function of points. Got a float": lambda: run(1.0),
    "map points (N, D) to N floats, (N,). Got shape ()": lambda: run(jnp.sum),
    "Got shape (2, 1)": lambda: run(lambda X: X),
    "batches (N, 3, D) to N floats, (N,). Got shape (2, 3)": lambda: run(
        lambda X: X[..., 0], q=3
    ),
    "(2,) of int32": lambda: run(lambda X: jnp.zeros(2, jnp.int32)),
    "a function that JAX can trace": lambda: run(
        lambda X: jnp.asarray(np.asarray(X)[:, 0])
    ),
    "`ConditionedGP.predict(X)` must have shape (N, 1)": lambda: run(
        log_ei(on_line()), SQUARE
    ),
    "has a closed form for single points": lambda: run(log_ei(on_line()), q=2),
    "must lie inside the domain": lambda: run(
        log_ei(drawn(4, FourierGrid((-0.5, 1.5)))), 3 * LINE
    ),
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_a_sentence(sentence):
    with pytest.raises(ValueError) as error:
        BAD[sentence]()
    assert sentence in str(error.value)


@pytest.mark.exhaustive
def test_traced_bounds_are_checked_when_the_program_runs():
    program = jax.jit(lambda b: run(bounds=b, **FEW).value)
    assert jnp.isfinite(program(LINE))
    with pytest.raises(Exception, match="below the upper"):
        program(LINE[::-1]).block_until_ready()
