"""`pareto_front` against moocore's, and by hand."""

import jax
import jax.numpy as jnp
import moocore
import numpy as np
import pytest
from helpers import few_of

from pyrox.gp import pareto_front
from pyrox.gp._decisions import pareto


@pytest.mark.parametrize("n_objectives", [1, 2, 4])
@pytest.mark.parametrize("n", few_of([1, 500], 500))
def test_the_front_is_that_of_moocore(width, n, n_objectives):
    """Of whole numbers, so that many are equal, in one objective or in all."""
    rng = np.random.default_rng(n_objectives)
    values = rng.integers(0, 40, size=(n, n_objectives)).astype(f"float{width}")
    expected = moocore.is_nondominated(values, keep_weakly=True)
    assert (pareto_front(values) == expected).all()
    assert (jax.jit(pareto_front)(jnp.asarray(values)) == expected).all()


def test_blocks_and_directions(monkeypatch, width):
    monkeypatch.setattr(pareto, "_AT_ONCE", 7 * 301)
    jax.clear_caches()
    values = np.random.default_rng(0).normal(size=(301, 2)).astype(f"float{width}")
    for maximize in (True, [True, False]):
        expected = moocore.is_nondominated(
            values, maximise=np.broadcast_to(maximize, 2).tolist(), keep_weakly=True
        )
        assert (pareto_front(values, maximize=maximize) == expected).all()
    jax.clear_caches()


def test_equal_rows_are_kept_and_nan_is_not():
    values = np.array(
        [[0.0, 1.0], [0.0, 1.0], [np.nan, 0.0], [1.0, np.inf], [1.0, 0.0]]
    )
    expected = [True, True, False, False, True]
    assert pareto_front(values).tolist() == expected
    assert not pareto_front(np.full((3, 2), np.nan)).any()
    assert pareto_front(np.zeros((0, 2))).shape == (0,)


@pytest.mark.exhaustive
def test_twenty_thousand_rows():
    values = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    values = jnp.asarray(values)
    front = jax.jit(pareto_front)
    expected = moocore.is_nondominated(np.asarray(values, float), keep_weakly=True)
    assert (front(values) == expected).all()
    analysis = front.lower(values).compile().memory_analysis()
    assert analysis is not None and analysis.temp_size_in_bytes < 2**26


BAD = {
    "must have shape (N, K)": lambda: pareto_front(np.zeros(3)),
    "Got (3, 0)": lambda: pareto_front(np.zeros((3, 0))),
    "for each of the 2 objectives. Got [True]": lambda: pareto_front(
        np.zeros((3, 2)), maximize=[True]
    ),
    "must be True or False": lambda: pareto_front(np.zeros((3, 2)), maximize=[1, 0]),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("sentence", BAD)
def test_bad_input_is_a_sentence(sentence):
    with pytest.raises(ValueError) as error:
        BAD[sentence]()
    assert sentence in str(error.value)
