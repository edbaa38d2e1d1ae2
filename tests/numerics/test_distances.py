"""Derivatives of squared distances: as right over a wide span as over a narrow one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import RBF, GPPrior, Matern, PathwiseSampler, RationalQuadratic
from pyrox.gp._numerics.distances import squared_distances

KERNELS = {
    "Matern-5/2": functools.partial(Matern, 2.5),
    "Matern-3/2": functools.partial(Matern, 1.5),
    "Matern-1/2": functools.partial(Matern, 0.5),
    "RBF": RBF,
    "RationalQuadratic": RationalQuadratic,
}


def near_pairs(span: float, in_size: int, n: int = 30):
    """Points all over the span, each with a neighbour, and others near to them."""
    rng = np.random.default_rng(in_size)
    first = rng.uniform(0, span, (n // 2, in_size))
    first[:2] = [[0.0], [span]]
    neighbours = first + rng.normal(size=first.shape) / np.sqrt(in_size)
    X = np.concatenate([first, neighbours]).astype(np.float32)
    Z = (X + rng.normal(size=X.shape) / np.sqrt(in_size)).astype(np.float32)
    return X, Z, rng.normal(size=(n, n))


def weighted(lengthscales, X1, X2, kernel, weights):
    return jnp.sum(weights * KERNELS[kernel](1.0, lengthscales)(X1, X2))


@functools.partial(jax.jit, static_argnames="kernel")
def gradients(lengthscales, X1, X2, kernel, weights):
    return jax.grad(weighted, (0, 1, 2))(lengthscales, X1, X2, kernel, weights)


def assert_near(ours, exact, tolerance=1e-3):
    assert ours.dtype == jnp.float32
    ours, exact = np.asarray(ours), np.asarray(exact)
    assert np.abs(ours - exact).max() <= tolerance * np.abs(exact).max()


@pytest.mark.parametrize("in_size", few_of([1, 2, 3, 6], 1, 6))
@pytest.mark.parametrize("kernel", few_of(KERNELS, "Matern-5/2", "Matern-1/2"))
def test_gradients_in_float32_over_any_span(kernel, in_size, x64):
    ells = np.linspace(0.8, 1.25, in_size)
    for span in (10, 100, 1e3, 1e4, 1e5):
        X, Z, weights = near_pairs(span, in_size)
        pair = [
            gradients(*(jnp.asarray(a, dtype) for a in (ells, X, Z)), kernel, w)
            for dtype, w in [
                (jnp.float32, jnp.asarray(weights, jnp.float32)),
                (jnp.float64, jnp.asarray(weights)),
            ]
        ]
        for ours, exact in zip(*pair, strict=True):
            assert_near(ours, exact)


@pytest.mark.parametrize("in_size", [1, 3])
def test_the_slope_against_differences(in_size, x64):
    """Narrow and wide, by everything together, forward and in reverse."""
    for span in (2.0, 1e4):
        X, Z, weights = near_pairs(span, in_size)
        scale = np.linspace(0.5, 2, in_size)
        rng = np.random.default_rng(1)
        moves = [rng.normal(size=a.shape) for a in (X, Z, scale)]
        gap = X[:, None, :].astype(float) - Z[None, :, :]
        moved = moves[0][:, None, :] - moves[1][None, :, :]
        terms = scale**2 * gap * moved + scale * moves[2] * gap**2
        exact = 2 * terms.sum(axis=2)
        both = np.abs(moves[0])[:, None, :] + np.abs(moves[1])[None, :, :]
        sizes = scale**2 * np.abs(gap) * both + np.abs(scale * moves[2]) * gap**2
        size = 2 * sizes.sum(axis=2)

        arrays = [jnp.asarray(a, jnp.float32) for a in (X, Z, scale)]
        tangents = [jnp.asarray(a, jnp.float32) for a in moves]
        push = jax.jit(lambda a, t: jax.jvp(squared_distances, a, t)[1])
        ours = np.asarray(push(tuple(arrays), tuple(tangents)))
        # As right as what it is of: each entry by the size of its own terms.
        loose = 1e-6 if span > 10 else 1e-4
        assert (np.abs(ours - exact) <= loose * (size + (span < 10))).all()

        w = jnp.asarray(weights, jnp.float32)
        pull = jax.jit(lambda a, w: jax.vjp(squared_distances, *a)[1](w))
        back = pull(tuple(arrays), w)
        total = sum(np.sum(np.float64(b) * m) for b, m in zip(back, moves, strict=True))
        assert abs(total - np.sum(weights * exact)) <= 1e-5 * np.sum(
            np.abs(weights) * size
        )


@pytest.mark.parametrize(
    ("kernel", "span", "expected"),
    [
        ("Matern-5/2", 1e4, 28.9),
        ("Matern-5/2", 3e3, 29.4),
        ("RBF", 3e3, 10.58),
    ],
)
def test_the_gradient_of_the_likelihood_over_a_wide_span(kernel, span, expected):
    start = np.linspace(0, span, 150)
    t = np.sort(np.concatenate([start, start + 0.7])).astype(np.float32)
    y = np.sin(1.3 * t.astype(float)).astype(np.float32)

    @jax.jit
    def slope(log_ell):
        def density(u):
            made = KERNELS[kernel](1.0, jnp.exp(u))
            prior = GPPrior(made, t[:, None], jitter=1e-6)
            return prior.condition(y, 0.01).log_marginal_likelihood()

        return jax.grad(density)(log_ell)

    assert abs(slope(jnp.float32(0)) - expected) <= 2e-3 * expected


@pytest.mark.parametrize("in_size", few_of([1, 6]))
def test_slopes_by_query_points_over_a_wide_span(in_size, x64):
    """Rows that are differentiated together: of the mean, and of paths."""
    X, query, weights = near_pairs(1e5, in_size)

    def posterior(dtype):
        y = jnp.asarray(weights[0], dtype)
        return GPPrior(Matern(2.5, 1.0, 1.0), jnp.asarray(X, dtype)).condition(y, 0.1)

    pair = [posterior(t).predict_gradient(jnp.asarray(query, t)) for t in ("f4", "f8")]
    for ours, exact in zip(*pair, strict=True):
        assert_near(ours, exact)
    paths = PathwiseSampler(posterior("f8"), 64).sample_paths(jax.random.key(0), 2)
    # The waves' own slopes round by the span; the update's do not.
    update = [
        jax.jacfwd(lambda x, p=p: p.kernel(x[None], p.anchors)[0] @ p.update_weights.T)
        for p in (paths.astype(jnp.float32), paths)
    ]
    ours, exact = (
        jax.vmap(f)(jnp.asarray(query, t))
        for f, t in zip(update, ("f4", "f8"), strict=True)
    )
    assert_near(ours, exact)


@pytest.mark.exhaustive
def test_second_derivatives_over_a_wide_span(x64):
    X, Z, weights = near_pairs(1e4, 2, n=10)

    @functools.partial(jax.jit, static_argnums=2)
    def second(ells, X, reverse_first):
        def slope(ells, X):
            outer = jax.grad if reverse_first else jax.jacfwd
            w = jnp.asarray(weights, X.dtype)
            return outer(weighted, (0, 1))(
                ells, X, jnp.asarray(Z, X.dtype), "Matern-5/2", w
            )

        return jax.jacfwd(slope, (0, 1))(ells, X)

    for reverse_first in (True, False):
        pair = [
            second(jnp.ones(2, t), jnp.asarray(X, t), reverse_first)
            for t in ("f4", "f8")
        ]
        for ours, exact in zip(*map(jax.tree.leaves, pair), strict=True):
            assert_near(ours, exact)


@pytest.mark.exhaustive
def test_a_batch_is_its_elements(x64):
    """Narrow and wide elements in one `vmap`, and in a `scan`."""
    X, Z, weights = near_pairs(1e3, 2)
    ells = jnp.asarray([[0.5, 1.0], [1e3, 2e3], [3e3, 1e3]], jnp.float32)
    X, Z, w = (jnp.asarray(a, jnp.float32) for a in (X, Z, weights))
    single = functools.partial(gradients, X1=X, X2=Z, kernel="RBF", weights=w)
    alone = [single(e) for e in ells]
    alone = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    for ours in (jax.vmap(single)(ells), jax.lax.map(single, ells)):
        for batch, one in zip(ours, alone, strict=True):
            scale = np.abs(one).max(axis=tuple(range(1, one.ndim)), keepdims=True)
            assert (np.abs(batch - one) <= 1e-4 * scale).all()


def test_a_batch_computes_one_rule_not_both():
    X = jnp.zeros((4, 2))

    def program(ell):
        return jax.grad(lambda ell: jnp.sum(RBF(1.0, ell)(X, X)))(ell)

    def choices(program, *shape):
        text = jax.jit(program).lower(jnp.ones(shape)).as_text()
        return text.count("stablehlo.case")

    assert choices(jax.vmap(program), 3) == choices(program) > 0


def test_wide_inputs_keep_no_array_of_every_difference():
    n, m, in_size = 600, 500, 12

    def loss(A, B, ells):
        return jnp.sum(RBF(1.0, ells)(A, B) ** 2)

    shapes = [(n, in_size), (m, in_size), (in_size,)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes <= 5 * 4 * n * m
