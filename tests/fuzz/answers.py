"""Every answer of the library to a problem, held against the dense ones."""

import dataclasses
import functools
import warnings
from typing import Any

import drawn
import jax
import numpy as np
from dense import Dense
from formulas import AbstractFormula
from problems import MEANS, Problem
from rounded import Long, Rounded
from tally import Tally
from variational import Guide

from pyrox import gp
from pyrox.gp._posterior.jitter import as_fraction

N_FEATURES, N_PATHS, BLOCK = 128, 3, 3


def jitter_of(
    prior: gp.GPPrior | gp.SparseGPPrior, problem: Problem, X: np.ndarray
) -> Any:
    """The variance that the library adds to the diagonal of the Gram matrix at X."""
    dtype = np.dtype(problem.structure.dtype)
    fraction = as_fraction(prior.jitter, len(X), dtype)
    return fraction * np.mean(problem.kernel.diag(X.astype(Long)))


def check(problem: Problem, tally: Tally, seed: int) -> None:
    """Compares all answers to `problem`, whose draws come from `seed`."""
    # Of the reference, where there are no digits left; the library says so, too.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*resolves the mean only to about")
        posterior, dense = _exact(problem, tally)
        if posterior is not None:
            given = problem, posterior, dense, tally, seed
            tally.answer("moments", lambda: _moments(*given), False)
            tally.answer("draws", lambda: _paths(*given), False)
        tally.answer("guides", lambda: _sparse(problem, tally, seed), False)


def process(kind: type, problem: Problem, X: np.ndarray) -> Any:
    about = problem.structure
    jitter = {} if about.jitter is None else {"jitter": about.jitter}
    return kind(problem.kernel.library(), X, MEANS[about.mean][0], **jitter)


def _exact(problem: Problem, tally: Tally) -> tuple[gp.ConditionedGP | None, Dense]:
    prior = process(gp.GPPrior, problem, problem.X)
    y, mean = problem.y.astype(Long), problem.mean(problem.X)
    residual = Rounded(y - mean.value, abs(y) + abs(mean.value) + mean.error)
    diagonal = np.broadcast_to(
        problem.noise.astype(Long) + jitter_of(prior, problem, problem.X), y.shape
    )
    gram = problem.kernel.gram(problem.X, problem.X)
    dense = Dense(gram, diagonal, residual, problem.structure.eps)
    got = prior.log_marginal_likelihood(problem.y, problem.noise)
    if dense.resolved or np.isfinite(got) or not np.isneginf(got):
        wanted = dense.log_density() if dense.resolved else (got, got)
        tally.compare("log density of a prior", got, wanted, dense.resolved)
    posterior = tally.answer(
        "condition",
        lambda: prior.condition(problem.y, problem.noise),
        not dense.resolved,
    )
    return posterior, dense


def _moments(
    problem: Problem,
    posterior: gp.ConditionedGP,
    dense: Dense,
    tally: Tally,
    seed: int,
) -> None:
    X, Q = problem.X.astype(Long), problem.queries.astype(Long)
    kernel, queries, resolved = problem.kernel, problem.queries, dense.resolved
    cross, own = kernel.gram(X, Q), kernel.gram(Q, Q)
    blank = np.zeros(len(Q)), np.zeros((len(Q), len(Q))), np.zeros(len(X))
    mean = dense.mean(problem.mean(Q), cross) if resolved else (blank[0],) * 2
    var = dense.var(own, cross) if resolved else (blank[0],) * 2
    cov = dense.cov(own, cross) if resolved else (blank[1],) * 2
    alone = dense.leave_one_out() if resolved else (blank[2],) * 2
    density = dense.log_density() if resolved else (0.0, 0.0)
    compare = functools.partial(tally.compare, resolved=resolved)
    compare("predict_mean", posterior.predict_mean(queries), mean)
    in_blocks = posterior.predict_mean(queries, block_size=BLOCK)
    compare("predict_mean in blocks", in_blocks, mean)
    compare("predict_var", posterior.predict_var(queries), var)
    compare("predict_cov", posterior.predict_cov(queries), cov)
    compare("log_marginal_likelihood", posterior.log_marginal_likelihood(), density)
    compare("leave one out", posterior.leave_one_out_log_density(), alone)
    if kernel.smooth:
        _gradient(problem, posterior, dense, tally)


def _gradient(
    problem: Problem, posterior: gp.ConditionedGP, dense: Dense, tally: Tally
) -> None:
    X, Q = problem.X.astype(Long), problem.queries.astype(Long)
    mean, cov = (np.asarray(a) for a in posterior.predict_gradient(problem.queries))
    if not dense.resolved:
        tally.compare("predict_gradient mean", mean, (mean, mean), False)
        tally.compare("predict_gradient cov", cov, (cov, cov), False)
        return
    jet, own = problem.kernel.jet(Q, X), problem.kernel.jet(Q, Q).mixed
    of_mean = problem.mean_slope(Q)
    for i in range(len(Q)):
        slope = Rounded(jet.slope.value[i].copy(), jet.slope.error[i].copy())
        tally.compare(
            "predict_gradient mean", mean[i], dense.mean(of_mean[i], slope), True
        )
        value, bound = dense.cov(own[i], slope)
        np.fill_diagonal(value, np.maximum(np.diagonal(value), 0))
        tally.compare("predict_gradient cov", cov[i], (value, bound), True)


def _values(
    kind: str, problem: Problem, paths: gp.PathwiseFunction, tally: Tally
) -> None:
    """Paths are what their own parts say: whole, in blocks, by terms, in float32."""
    kernel, queries, eps = problem.kernel, problem.queries, problem.structure.eps

    def compare(name, got, own, formula, mean, X, eps):
        wanted = drawn.values(own, formula, mean, X)
        tally.compare(name, got, (wanted.value, eps * wanted.error), True)
        return wanted

    outside = _outside(paths, queries)
    got = tally.answer(kind, lambda: paths(queries), outside)
    if got is None:
        return
    mean = problem.mean(queries)
    compare(kind, got, paths, kernel, mean, queries, eps)
    in_blocks = paths(queries, block_size=BLOCK)
    compare(f"{kind} in blocks", in_blocks, paths, kernel, mean, queries, eps)
    if kind != "paths":
        return
    none = Rounded(0 * mean.value, 0 * mean.value)
    total, bound = np.broadcast_to(mean.value, got.shape), mean.error
    for part, term in zip(paths.parts(), kernel.terms(), strict=True):
        own = part(queries)
        wanted = compare("a part", own, part, term, none, queries, eps)
        total, bound = total + np.asarray(own, Long), bound + 2 * wanted.error
    whole = drawn.values(paths, kernel, mean, queries)
    bound = eps * (bound + whole.error)
    tally.compare("parts add up", got, (total, bound), True)
    if queries.dtype == np.float64:
        X = queries.astype(np.float32)
        short = tally.answer(
            "paths.astype", lambda: paths.astype(X.dtype), _beyond_the_type
        )
        if short is None:
            return
        got = tally.answer("paths.astype", lambda: short(X), _about_the_domain)
        if got is not None:
            half, rounded = float(np.finfo(X.dtype).eps) / 2, cast(kernel, X.dtype)
            compare("paths.astype", got, short, rounded, problem.mean(X), X, half)


def _paths(
    problem: Problem,
    posterior: gp.ConditionedGP,
    dense: Dense,
    tally: Tally,
    seed: int,
) -> None:
    key = jax.random.key(seed)

    def draw(given):
        return gp.PathwiseSampler(given, N_FEATURES).sample_paths(key, N_PATHS)

    paths = tally.answer("sample_paths", lambda: draw(posterior), _about_features)
    if paths is None:
        return
    _values("paths", problem, paths, tally)
    if not dense.resolved:
        return
    # Matheron's rule: what the update leaves is a draw of the noise, jitter included.
    prior = drawn.prior_draw(paths, problem.X)
    rest = dense.residual
    target = Rounded(
        rest.value - prior.value, rest.error + prior.error + abs(prior.value)
    )
    left, bound = dense.residual_of(drawn.long(paths.update_weights), target)
    scale = np.sqrt(dense.diagonal)
    z = np.maximum(abs(left) - bound, 0) / scale
    tally.ratio("residual is noise, of 7 sd", float(z.max()) / 7)
    clear = bound < 0.01 * scale
    tally.squares += np.array(
        [np.sum(clear), np.sum((left / scale)[clear] ** 2)], float
    )
    # The same draw, told other values, moves by their difference alone.
    y = problem.y[::-1].copy()
    other = draw(posterior.prior.condition(y, problem.noise))
    weights = drawn.long(other.update_weights) - drawn.long(paths.update_weights)
    moved = y.astype(Long) - problem.y.astype(Long)
    zero, _ = dense.residual_of(weights, Rounded(moved, 0 * moved))
    sizes = abs(drawn.long(other.update_weights)) @ dense.dA
    sizes = sizes + abs(drawn.long(paths.update_weights)) @ dense.dA
    bound = sizes + 2 * dense.eps * target.error
    tally.compare("update follows the data", 0 * zero, (zero, bound), True)


def _sparse(problem: Problem, tally: Tally, seed: int) -> None:
    rng = np.random.default_rng([seed, 7])
    about, dtype = problem.structure, problem.structure.dtype
    m = (about.n_data + 1) // 2
    Z = problem.X[:m]
    prior = process(gp.SparseGPPrior, problem, Z)
    level = np.sqrt(np.mean(problem.kernel.diag(Z))).astype(np.float64)
    root = np.tril(0.1 * rng.normal(size=(m, m)), -1) + np.diag(rng.uniform(0.1, 1, m))
    mean_at_Z, jitter = problem.mean(Z), np.full(m, jitter_of(prior, problem, Z), Long)
    gram = problem.kernel.gram(Z, Z)
    kind = about.guide
    unit = 1.0 if kind == "WhitenedGuide" else level
    centre = unit * rng.normal(size=m)
    if kind != "WhitenedGuide":
        centre = centre + mean_at_Z.value.astype(np.float64)
    guide = Guide(kind, np.asarray(centre, dtype), np.asarray(unit * root, dtype))
    u = guide.mean.astype(Long)
    error = abs(u) + abs(mean_at_Z.value) + mean_at_Z.error
    p = Dense(gram, jitter, Rounded(u - mean_at_Z.value, error), about.eps)
    _guide(problem, prior, guide, p, tally)

    def draw():
        sampler = gp.DecoupledPathwiseSampler(prior, guide.library(), N_FEATURES)
        return sampler.sample_paths(jax.random.key(seed), N_PATHS)

    def excused(sentence):
        return not p.resolved or _about_features(sentence)

    paths = tally.answer("sparse sample_paths", draw, excused)
    if paths is not None:
        _values("sparse paths", problem, paths, tally)


def _guide(
    problem: Problem, prior: gp.SparseGPPrior, guide: Guide, p: Dense, tally: Tally
) -> None:
    kernel, queries, kind = problem.kernel, problem.queries, guide.kind
    q, resolved = guide.library(), p.resolved
    name, Z = f"{kind}.{{}}".format, np.asarray(prior.Z)
    divergence = tally.answer(name("kl"), lambda: q.kl(prior), not resolved)
    moments = tally.answer(
        name("predict"), lambda: q.predict(prior, queries), not resolved
    )
    bound = q.elbo(prior, problem.X, problem.y, problem.noise)
    if not resolved:
        for what, got in (("kl", divergence), ("elbo", bound)):
            if got is not None and not np.isneginf(got):
                tally.compare(name(what), got, (got, got), False)
        return

    def at(X):
        X = X.astype(Long)
        cross, own = kernel.gram(Z, X), kernel.gram(X, X)
        return guide.predict(p, problem.mean(X), own, cross)

    kl = guide.divergence(p)
    if divergence is not None:
        tally.compare(name("kl"), divergence, kl, True)
    if moments is not None:
        for what, got, wanted in zip(
            ("mean", "var"), moments, at(queries), strict=True
        ):
            tally.compare(name(what), got, wanted, True)
    y, noise = problem.y.astype(Long), problem.noise.astype(Long)
    noise = np.broadcast_to(noise, y.shape)
    wanted = guide.evidence(at(problem.X), kl, y, noise, p)
    tally.compare(name("elbo"), bound, wanted, True)


def cast(formula: AbstractFormula, dtype: np.dtype) -> AbstractFormula:
    """The same kernel with its numbers rounded."""

    def visit(node: Any) -> Any:
        if isinstance(node, np.ndarray | np.generic):
            return node.astype(dtype)
        if isinstance(node, tuple):
            return tuple(visit(part) for part in node)
        if isinstance(node, AbstractFormula) and dataclasses.is_dataclass(node):
            names = [field.name for field in dataclasses.fields(node)]
            parts = {name: visit(getattr(node, name)) for name in names}
            return dataclasses.replace(node, **parts)
        return node

    return visit(formula)


def _outside(paths: gp.PathwiseFunction, X: np.ndarray) -> bool:
    """Whether some points lie where these paths are not right, far off the anchors."""
    if paths.domain is None:
        return False
    lower, upper = np.asarray(paths.domain)
    return not ((lower <= X) & (X <= upper)).all()


def _about_the_domain(sentence: str) -> bool:
    """A point near the domain's edge may be rounded over it."""
    return "domain" in sentence


def _beyond_the_type(sentence: str) -> bool:
    """What a float64 kernel is made of may be more than float32 holds."""
    return "must hold the kernel's hyperparameters" in sentence


def _about_features(sentence: str) -> bool:
    """White noise has no features, and some products need more columns than these."""
    return "features" in sentence
