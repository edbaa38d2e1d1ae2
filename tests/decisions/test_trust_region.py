"""The rule of TuRBO: lengths after successes and failures, boxes inside the bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyrox.gp import TrustRegion

BOX = np.array([[0.0, -10.0], [1.0, 10.0]])
MIDDLE = np.array([0.5, 0.0])


def after(rounds, **settings):
    region = TrustRegion(**{"in_size": 2, **settings})
    for improved in rounds:
        region = region.told(improved)
    return float(region.length)


@pytest.mark.parametrize(
    ("rounds", "length"),
    [
        ([True, True], 0.8),
        ([True, True, True], 1.6),
        ([True] * 9, 1.6),
        ([True, True, False, True, True], 0.8),
        ([False] * 3, 0.8),
        ([False] * 4, 0.4),
        ([False] * 8, 0.2),
        ([False] * 3 + [True] + [False] * 3, 0.8),
        ([False] * 4 + [True] * 3, 0.8),
    ],
)
def test_lengths(rounds, length):
    assert after(rounds) == pytest.approx(length)


def test_patience_by_inputs_and_batch():
    assert after([False] * 2, in_size=8, batch_size=4) == pytest.approx(0.4)
    assert after([False] * 7, in_size=8) == pytest.approx(0.8)
    region = TrustRegion(2)
    for _ in range(4 * 7):
        assert not region.exhausted
        region = region.told(False)
    assert region.exhausted


def test_boxes():
    region = TrustRegion(2)
    box = np.asarray(region.bounds(MIDDLE, BOX))
    assert np.allclose(box, [[0.1, -8.0], [0.9, 8.0]])
    box = np.asarray(region.bounds(np.array([1.0, -10.0]), BOX))
    assert np.allclose(box, [[0.6, -10.0], [1.0, -2.0]])
    # Of the same volume, and longer where the function changes slowly.
    box = np.asarray(region.bounds(MIDDLE, BOX, jnp.array([0.1, 2.0 * 4])))
    assert np.allclose((box[1] - box[0]) / (BOX[1] - BOX[0]), [0.4, 1.0])


def test_it_is_a_pytree():
    outcomes = jnp.array([True, True, True, False, False, False, False])
    step = jax.jit(lambda region, improved: (region.told(improved), region.length))
    region, _ = jax.lax.scan(step, TrustRegion(2), outcomes)
    assert float(region.length) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda r: TrustRegion(0), "whole number of at least 1"),
        (lambda r: r.bounds(MIDDLE[None], BOX), "one point"),
        (lambda r: r.bounds(MIDDLE[:1], BOX), r"shape \(2, 1\)"),
        (lambda r: r.bounds(np.nan * MIDDLE, BOX), "finite"),
        (lambda r: r.bounds(MIDDLE, BOX, -1.0), "positive"),
        (lambda r: r.bounds(MIDDLE, BOX[::-1]), "below the upper"),
    ],
)
def test_bad_input(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(TrustRegion(2))
