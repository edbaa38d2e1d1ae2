"""Shared fixtures. Every test runs with JAX's strict promotion of dtypes and ranks."""

import itertools
import os

# Read by OpenBLAS when JAX loads it; see the limits in the README.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import matplotlib
import pytest

matplotlib.use("Agg")


# Files whose tests take longest: with two workers, one would finish them alone.
_FIRST = (
    "test_package.py",
    "test_demo.py",
    "test_calibration.py",
    "test_factors.py",
    "test_workflow.py",
)


# Examples that compile a whole loop or search, seconds and more.
_LONG_EXAMPLES = (
    "fit.fit",
    "thompson.ThompsonSampling",
    "trade_offs.optimize_trade_offs",
    "entropy.joint_entropy",
    "optimize_acquisition.optimize_acquisition",
    "crossings.crossings",
    "dynamics.policy_value",
    "excursion.excursion_volume",
    "laplacian.laplacian",
)


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items):
    items.sort(key=_turn)
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            # An example imports what it uses: who copies it has no names of the module.
            item.dtest.globs.clear()
            if item.name.endswith(_LONG_EXAMPLES):
                item.add_marker(pytest.mark.exhaustive)


def _turn(item) -> int:
    """Examples side by side, after what takes longest and before all else."""
    if item.path.name in _FIRST:
        return 0
    return 1 if isinstance(item, pytest.DoctestItem) else 2


_OF_EXAMPLES = pytest.StashKey[bool]()


def pytest_runtest_setup(item):
    """Examples are about how to call, not about rounding or speed: see
    `plainly_compiled`."""
    is_example = isinstance(item, pytest.DoctestItem)
    if item.config.stash.get(_OF_EXAMPLES, False) != is_example:
        item.config.stash[_OF_EXAMPLES] = is_example
        jax.config.update("jax_disable_most_optimizations", is_example)
        jax.clear_caches()


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """A mixed dtype or a silent broadcast in pyrox is an error.

    NumPyro itself does not live under these rules; tests that run its inference carry
    the mark `numpyro`, which leaves them out.
    """
    if request.node.get_closest_marker("numpyro"):
        yield
        return
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(params=[32, 64], ids=["float32", "float64"])
def width(request):
    """The float width of a test, 32 or 64 bits."""
    with jax.enable_x64(request.param == 64):
        yield request.param


@pytest.fixture
def x64():
    """Double precision, where a test compares with a float64 reference."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def plainly_compiled():
    """XLA without its costly optimisation: a quarter to a half less time to compile.
    For tests that are about what is computed, not rounding, speed or memory."""
    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
    jax.clear_caches()  # no later test meets these programs


@pytest.fixture
def getkey():
    """A fresh PRNG key at every call, the same in every run."""
    seeds = itertools.count(2026)
    return lambda: jax.random.key(next(seeds))
