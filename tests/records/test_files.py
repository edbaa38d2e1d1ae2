"""Saved and loaded: the same bits, no code, and a sentence for every other file."""

import hashlib
import json
import os
import pathlib
import re
import stat
import struct
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import numpyro.distributions as dist
import pytest
from helpers import few_of

import pyrox.gp
from pyrox.gp import (
    RBF,
    AbstractKernel,
    ActiveDims,
    ConjugateGradients,
    ConstantMean,
    Coregionalization,
    Cosine,
    DecoupledPathwiseSampler,
    Derivatives,
    DivergenceFree,
    FourierGrid,
    FullRankGuide,
    GPPrior,
    Landmarks,
    Linear,
    Matern,
    MultiOutputPrior,
    MultiOutputSampler,
    NaturalGuide,
    PathwiseSampler,
    Periodic,
    Polynomial,
    SparseGPPrior,
    StochasticDualDescent,
    TrustRegion,
    White,
    fit,
    hyperparameter,
    load,
    paths_over_draws,
    save,
    substitute,
)
from pyrox.gp._records import known
from pyrox.gp._records.archive import MAGIC

pytestmark = pytest.mark.usefixtures("plainly_compiled")

KEY = jr.key(0)


def bits(tree) -> list:
    def one(leaf):
        if not hasattr(leaf, "tobytes"):
            return type(leaf), repr(leaf)
        kind = isinstance(leaf, jax.Array), str(leaf.dtype), leaf.shape
        return *kind, np.asarray(leaf).tobytes()

    return list(map(one, jax.tree.leaves(tree)))


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    assert bits(found) == bits(wanted)


def data():
    X = jnp.linspace(0, 1, 6)[:, None]
    return X, jnp.sin(5 * X[:, 0])


def posterior(kernel=None, **options):
    X, y = data()
    prior = GPPrior(RBF(1.0, 0.3) if kernel is None else kernel, X, ConstantMean(0.2))
    return prior.condition(y, 0.01, **options)


def several():
    kernel = ActiveDims(RBF(), (0,)) * ActiveDims(Coregionalization(1, 2), (1,))
    X, y = data()
    prior = MultiOutputPrior(kernel, X, 2)
    return prior.condition(jnp.stack([y, -y], axis=1), 0.1)


def sparse():
    prior = SparseGPPrior(Matern(1.5), data()[0][::2])
    return {"prior": prior, "guide": FullRankGuide.init(3)}


def ensemble():
    ells = {"RBF.lengthscale": jnp.array([0.3, 0.5])}
    prior, y = GPPrior(RBF(), data()[0]), data()[1]
    return paths_over_draws(
        KEY, ells, lambda d: substitute(prior, d).condition(y, 0.1), 2, 8
    )


def found():
    X, y = data()
    return fit(GPPrior(RBF(), X), y, 0.01, max_steps=2, tolerance=10, progress=False)


MADE = {
    "kernels": lambda: [
        2.0 * RBF(name="trend") + Periodic() * Cosine() + Linear() + White(),
        Polynomial(2),
        Matern(2.5),
        DivergenceFree(RBF()),
    ],
    "priors": lambda: {
        "scalar": RBF().with_priors(variance=dist.LogNormal(0.0, 0.3)),
        "arrays": RBF(1.0, jnp.ones(2)).with_priors(
            lengthscale=dist.Gamma(jnp.array([2.0, 3.0]), jnp.ones(2))
        ),
        "event": RBF(1.0, jnp.ones(2)).with_priors(
            lengthscale=dist.InverseGamma(3.0, 1.0).expand([2]).to_event(1)
        ),
    },
    "posterior": posterior,
    "derivatives": lambda: posterior(
        derivatives=Derivatives(data()[0][:2], 0, jnp.zeros(2), 0.1)
    ),
    "iterative": lambda: posterior(solver=ConjugateGradients(1e-2)),
    "descent": lambda: [StochasticDualDescent(0.1), TrustRegion(2)],
    "told": lambda: posterior().condition_on(
        jnp.array([[0.55]]), jnp.array([0.1]), 0.1
    ),
    "paths": lambda: PathwiseSampler(posterior(), 16).sample_paths(KEY, 3),
    "sampler": lambda: PathwiseSampler(posterior(), 16, FourierGrid()),
    "landmarks": lambda: PathwiseSampler(
        posterior(), 4, Landmarks(data()[0][:4])
    ).sample_paths(KEY, 3),
    "half": lambda: (
        PathwiseSampler(posterior(), 16, "iid").sample_paths(KEY).astype(jnp.bfloat16)
    ),
    "outputs": several,
    "output paths": lambda: MultiOutputSampler(several(), 16).sample_paths(KEY, 2),
    "sparse": sparse,
    "natural": lambda: NaturalGuide.init(3),
    "sparse paths": lambda: DecoupledPathwiseSampler(
        sparse()["prior"], sparse()["guide"], 16
    )(KEY, data()[0], n_paths=2),
    "ensemble": ensemble,
    "stacked": lambda: jax.vmap(lambda s: RBF(s))(jnp.arange(1.0, 4.0)),
    "fit": found,
    "plain": lambda: {
        "numbers": (1, -2.5, float("inf"), True, None, 10**30, 0.1),
        "arrays": [np.arange(3, dtype=np.int8), jnp.zeros((0, 2)), jnp.array(True)],
        "text": "µ \n \U0001f600 {array: 0}",
    },
}
QUICK = "kernels", "priors", "posterior", "told", "paths", "half", "stacked", "plain"


def round_trip(tmp_path, obj):
    path = tmp_path / "it.pyrox"
    save(path, obj)
    return load(path)


@pytest.mark.parametrize("name", few_of(MADE, *QUICK))
def test_what_is_loaded_is_what_was_saved(tmp_path, name, width):
    made = MADE[name]()
    assert_same(round_trip(tmp_path, made), made)


def test_nan_keeps_its_bits_and_a_shared_array_is_shared(tmp_path):
    odd = jax.device_put(np.array([0x7FC12345], np.uint32).view(np.float32))
    whole = round_trip(tmp_path, (odd, odd, float("nan")))
    assert whole[0] is whole[1] and np.isnan(whole[2])
    assert bits(whole[0]) == bits(odd)


def test_prng_keys(tmp_path):
    for impl in ("threefry2x32", "rbg"):
        keys = jr.split(jr.key(3, impl=impl), 2)
        loaded = round_trip(tmp_path, keys)
        assert loaded.dtype == keys.dtype
        np.testing.assert_array_equal(jr.key_data(loaded), jr.key_data(keys))


ELSEWHERE = """
import sys, jax, numpy as np
from pyrox.gp import load
for width in (32, 64):
    with jax.enable_x64(width == 64):
        case = load(f"{sys.argv[1]}/{width}.pyrox")
        X = case["X"]
        values = [*case["posterior"].predict(X), case["paths"](X), case["draws"](X)]
        for value, wanted in zip(values, case["values"], strict=True):
            assert value.dtype == wanted.dtype == f"float{width}"
            assert np.asarray(value).tobytes() == np.asarray(wanted).tobytes()
assert "numpyro" not in sys.modules
"""


def test_the_same_bits_in_a_new_process(tmp_path):
    settings = jax.config.read("jax_disable_most_optimizations")
    for width in (32, 64):
        with jax.enable_x64(width == 64):
            X = jnp.linspace(0, 1, 40)[:, None]
            case = {"posterior": posterior(), "X": X, "draws": ensemble()}
            case["paths"] = PathwiseSampler(posterior(), 64).sample_paths(KEY, 5)
            values = [*case["posterior"].predict(X), case["paths"](X), case["draws"](X)]
            save(tmp_path / f"{width}.pyrox", {**case, "values": values})
    plain = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": str(int(settings))}
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path)], env=plain, check=True
    )


def test_64_bits_are_not_cut_to_32(tmp_path, x64):
    path = tmp_path / "it.pyrox"
    save(path, posterior())
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64.*x64"):
        load(path)


class Own(AbstractKernel):
    variance: jax.Array = hyperparameter("positive")

    def __call__(self, X1, X2):
        return self.variance * X1 @ X2.T

    def diag(self, X):
        return self.variance * jnp.sum(X**2, axis=1)


class Squared(eqx.Module):
    def __call__(self, X):
        return X[:, 0] ** 2


def mean_of(mean_fn):
    return GPPrior(RBF(), data()[0], mean_fn).condition(data()[1], 0.1)


CODE = {
    "kernel": (
        lambda: RBF() + Own(jnp.ones(())),
        r"`obj\.right` is a Own, a kernel class of",
    ),
    "lambda": (lambda: mean_of(lambda X: X[:, 0]), r"`obj\.prior\.mean_fn` is a mean"),
    "module": (lambda: mean_of(Squared()), r"mean function of your own.*ConstantMean"),
    "unread": (lambda: GPPrior(RBF(), data()[0], Squared()), r"obj\.mean_fn"),
    "function": (lambda: {"f": data}, r"`obj\['f'\]` is data, which is code"),
    "object": (lambda: (1, object()), r"`obj\[1\]` is a object\. It saves kernels"),
    "keys": (lambda: {1: 2}, r"`obj` is a dict"),
    "leaf": (lambda: jax.tree.map(float, RBF()), r"obj\.variance` is float, and not"),
    "prior": (
        lambda: RBF().with_priors(
            variance=dist.TruncatedDistribution(dist.Normal(0.0, 1.0), low=0.0)
        ),
        r"priors\[0\]\[1\]` is the prior LeftTruncated.*substitute",
    ),
    "strings": (lambda: np.array(["a"]), "is an array of <U1"),
}


@pytest.mark.parametrize("made, sentence", CODE.values(), ids=CODE)
def test_code_is_refused_by_name_and_the_old_file_stays(tmp_path, made, sentence):
    path = tmp_path / "it.pyrox"
    save(path, 7)
    with pytest.raises(ValueError, match=sentence) as raised:
        save(path, made())
    assert "\n" not in str(raised.value)
    assert load(path) == 7 and os.listdir(tmp_path) == ["it.pyrox"]


def test_what_is_traced_or_endless_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is being traced. Call `save` outside"):
        jax.jit(lambda x: save(tmp_path / "x", x))(1.0)
    endless: list = []
    endless.append(endless)
    with pytest.raises(ValueError, match="holds itself"):
        save(tmp_path / "x", endless)
    assert os.listdir(tmp_path) == []


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "it.pyrox"
    save(path, 7)
    path.chmod(0o640)

    def no_space(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", no_space)
        with pytest.raises(OSError, match="No space left"):
            save(path, 8)
    assert load(path) == 7 and os.listdir(tmp_path) == ["it.pyrox"]
    link = tmp_path / "link"
    link.symlink_to(path)
    save(link, 9)
    assert load(path) == 9 and link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(ValueError, match="must be given the name of a file"):
        save(tmp_path, 1)
    with pytest.raises(FileNotFoundError):
        save(tmp_path / "none" / "x", 1)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file with all kinds of values in it, small."""
    path = tmp_path_factory.mktemp("whole") / "it.pyrox"
    kernel = 2.0 * RBF(1.0, jnp.ones(1)) + Matern(1.5)
    kernel = kernel + White().with_priors(variance=dist.Gamma(2.0, jnp.ones(())))
    paths = PathwiseSampler(posterior(), 4).sample_paths(KEY, 2)
    save(path, {"kernel": kernel, "paths": paths, "key": KEY, "odd": [np.inf, None]})
    return path.read_bytes()


def parts(content):
    length = struct.unpack("<8sIQ", content[:20])[2]
    return content[20 : 20 + length], content[20 + length : -32]


def sealed(header: bytes, arrays: bytes, version: int = 1) -> bytes:
    content = struct.pack("<8sIQ", MAGIC, version, len(header)) + header + arrays
    return content + hashlib.sha256(content).digest()


def outcome(tmp_path, content, whole):
    """A sentence, or what was loaded."""
    path = tmp_path / "it.pyrox"
    path.write_bytes(content)
    try:
        return load(path)
    except ValueError as error:
        sentence = str(error)
        assert re.match(r"`load\('.*it\.pyrox'\)`: ", sentence), sentence
        assert "\n" not in sentence and sentence.endswith(".")
        assert "damaged" in sentence or "not a file" in sentence or "vers" in sentence
        return sentence


def test_truncated_foreign_and_unknown_files_are_sentences(tmp_path, whole):
    header, arrays = parts(whole)
    assert sealed(header, arrays) == whole
    for size in (0, 5, 19, 20, 51, 60, len(whole) - 40, len(whole) - 1):
        assert isinstance(outcome(tmp_path, whole[:size], whole), str)
    for foreign in (b"PK\x03\x04" * 50, b"\x93NUMPY" + bytes(90), b"a,b\n1,2\n" * 9):
        assert "not a file that" in outcome(tmp_path, foreign, whole)
    for version in (0, 2, 2**31):
        sentence = outcome(tmp_path, sealed(header, arrays, version), whole)
        assert f"has version {version} of the format" in sentence
    assert "longer than its arrays" in outcome(
        tmp_path, sealed(header, arrays + b"x"), whole
    )
    with pytest.raises(ValueError, match="not a file that"):
        load("/dev/zero")


def test_200_mutated_files(tmp_path, whole):
    rng = np.random.default_rng(0)
    for _ in range(200):
        content, at = bytearray(whole), int(rng.integers(len(whole)))
        match rng.integers(5):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                del content[at : at + int(rng.integers(1, 50))]
            case 2:
                content[at:at] = rng.bytes(int(rng.integers(1, 50)))
            case 3:
                del content[at:]
            case 4:
                content[at : at + 8] = rng.bytes(8)
        if bytes(content) != whole:
            assert isinstance(outcome(tmp_path, bytes(content), whole), str)


OTHERS = [
    *(None, True, -1, 0, 10**40, 1e308, "os.system", "RBF", [], {}, [[]] * 3),
    *({"array": 0}, {"array": -1}, {"array": 10**9}, {"object": ["RBF", {}]}),
    *({"object": ["os.system", {"x": "true"}]}, {"tuple": [{"array": 1}]}),
    {"prior": {"Normal": {"loc": 0.0, "scale": -1.0}}},
    {"prior": {"expanded": [[10**9], {"Normal": {"loc": 0, "scale": 1}}]}},
    *({"number": "nan"}, {"key": ["rbg", 0]}),
    *(["float32", [2**50]], ["float64", [0, 2**39]]),
]


def edited(rng, node):
    """The header with one value in it made another."""
    places: list = []

    def visit(node):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            places.append((node, key))
            if isinstance(value, dict | list):
                visit(value)

    visit(node)
    holder, key = places[rng.integers(len(places))]
    match rng.integers(3):
        case 0:
            holder[key] = OTHERS[rng.integers(len(OTHERS))]
        case 1:
            del holder[key]
        case 2 if isinstance(holder, dict):
            holder[str(OTHERS[rng.integers(8)])] = holder.pop(key)
        case _:
            holder[key] = [holder[key]]
    return node


def test_200_headers_forged_with_a_right_checksum_run_nothing(
    tmp_path, whole, monkeypatch
):
    """Each is refused, or is an object that can be saved; nothing else is imported."""
    header, arrays = parts(whole)
    rng, refused = np.random.default_rng(1), 0
    for _ in range(200):
        forged = json.dumps(edited(rng, json.loads(header))).encode()
        before = set(sys.modules)
        loaded = outcome(tmp_path, sealed(forged, arrays), whole)
        assert {name for name in set(sys.modules) - before if "pyrox" not in name} <= {
            name for name in sys.modules if name.startswith(("numpyro", "jax"))
        }
        refused += isinstance(loaded, str)
        if not isinstance(loaded, str):
            save(tmp_path / "again", loaded)
    assert refused > 120


def test_headers_of_random_bytes_with_a_right_checksum(tmp_path, whole):
    header, arrays = parts(whole)
    rng = np.random.default_rng(2)
    for _ in range(200):
        forged = bytearray(header)
        for at in rng.integers(len(header), size=rng.integers(1, 4)):
            forged[at] = rng.integers(32, 127)
        outcome(tmp_path, sealed(bytes(forged), arrays), whole)
    deep = b'{"pyrox": "", "arrays": [], "object": ' + b'{"list": [' * 50_000
    for forged in (deep, b"[" * 100_000, b"\xff", b"{}", b"3", b'{"a": 1, "a": 2}',
                   b'{"pyrox": "", "arrays": [], "object": NaN}'):  # fmt: skip
        assert "damaged" in outcome(tmp_path, sealed(forged, b""), whole)
    many = json.dumps({"pyrox": "", "arrays": [["float32", [2**39]]], "object": 1})
    assert "longer than the file" in outcome(
        tmp_path, sealed(many.encode(), b""), whole
    )
    long = sealed(b" " * (2**22 + 1), b"")
    assert "header is longer" in outcome(tmp_path, long, whole)


def concrete_modules() -> set[type]:
    for name in dir(pyrox.gp):
        getattr(pyrox.gp, name)

    def below(kind):
        for sub in kind.__subclasses__():
            yield sub
            yield from below(sub)

    return {
        kind
        for kind in below(eqx.Module)
        if kind.__module__.startswith("pyrox.gp.")
        and not getattr(kind, "__abstractmethods__", ())
        and not kind.__name__.startswith("Abstract")
    }


# Code, or parts of a computation that nobody holds.
NOT_KEPT = {
    *("WrappedMean", "ReadMean", "Closure", "ReadLikelihood", "GaussianNoise"),
    *("Observation", "RadialSpectrum", "Formula", "Conditional", "Collapsed"),
    *("Inducing", "Projection", "Problem", "SparseProblem", "Marginals", "Drawn"),
    *("Sensitivity", "ThompsonSampling", "Box", "Chebyshev", "Data", "Scales"),
    *("Target", "Units", "Values", "Normal", "_Transition"),
}


def test_every_class_is_kept_or_is_known_not_to_be():
    kept = {known.class_of(name) for name in known.names()}
    assert all(known.name_of(kind) for kind in kept if kind)
    left = {kind.__name__ for kind in concrete_modules() - kept}
    assert left <= NOT_KEPT, left - NOT_KEPT
