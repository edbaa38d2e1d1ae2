"""Guides against dense references: moments of q(f), divergence, evidence bound."""

import dataclasses

import numpy as np
from dense import Answer, Dense
from rounded import PI, Rounded

from pyrox import gp

GUIDES = ("FullRankGuide", "MeanFieldGuide", "WhitenedGuide", "DeltaGuide")


@dataclasses.dataclass(frozen=True)
class Guide:
    """q(u) = N(mean, root root^T), over the values, or whitened."""

    kind: str
    mean: np.ndarray
    root: np.ndarray

    def library(self) -> gp.AbstractGuide:
        if self.kind == "DeltaGuide":
            return gp.DeltaGuide(self.mean)
        if self.kind == "MeanFieldGuide":
            return gp.MeanFieldGuide(self.mean, np.diagonal(self.root).copy())
        return getattr(gp, self.kind)(self.mean, self.root)

    @property
    def spread(self) -> np.ndarray:
        if self.kind == "DeltaGuide":
            return 0 * self.root
        if self.kind == "MeanFieldGuide":
            return np.diag(np.diagonal(self.root))
        return self.root

    def predict(
        self, p: Dense, mean: Rounded, prior: Rounded, C: Rounded
    ) -> tuple[Answer, Answer]:
        """The marginals of f; `p` is p(u), its residual q's mean less the prior's."""
        var, var_error = p.var(prior, C)
        if self.kind != "WhitenedGuide":
            centre = p.mean(mean, C)
            gain = p.inverse @ C.value
            dgain = abs(p.inverse) @ (p.dA @ abs(gain) + p.eps * C.error)
        else:
            gain = p.whitener @ C.value
            # A factor follows its matrix by the lower half of L^-1 dA L^-T.
            white = abs(p.whitener)
            moved = np.tril(white @ p.dA @ white.T) @ abs(gain)
            dgain = moved + p.eps * white @ C.error
            value = mean.value + self.mean @ gain
            size = p.slack * (abs(self.mean) @ abs(gain)) + p.eps * mean.error
            error = abs(self.mean) @ dgain + size + p.eps * abs(value)
            centre = p.bounded(value, error)
        spread = self.spread.T @ gain
        dspread = abs(self.spread.T) @ (dgain + p.slack * abs(gain))
        added = (spread**2).sum(0)
        error = 2 * (abs(spread) * dspread).sum(0) + (dspread**2).sum(0)
        error = error + 2 * p.slack * (added + prior.value.diagonal())
        return centre, (var + added, var_error + p.higher_order * error)

    def divergence(self, p: Dense) -> Answer:
        n, slack = len(self.mean), p.slack
        if self.kind == "DeltaGuide":
            value, error = p.log_density()
            return -value, error
        logs = np.log(abs(np.diagonal(self.spread)))
        if self.kind == "WhitenedGuide":
            size = (self.root**2).sum() + self.mean @ self.mean
            value = (size - n) / 2 - logs.sum()
            return p.bounded(value, slack * (size + n + abs(logs).sum()))
        # The terms of -log p(mean) without its constant, and those of the spread.
        value, error = p.log_density()
        white, solved = p.whitener @ self.spread, abs(p.inverse @ self.spread)
        trace, reach = (white**2).sum(), p.scale @ solved
        length = np.sqrt((white**2).sum(0))
        value = -value - n * np.log(2 * PI) / 2 + (trace - n) / 2 - logs.sum()
        error = error + p.higher_order * (
            (solved * (p.dA @ solved)).sum() + 2 * slack * (reach @ length)
        )
        return value, error + slack * (trace + 2 * n + abs(logs).sum())

    def evidence(
        self, moments: tuple[Answer, Answer], kl: Answer, y: np.ndarray, noise, p: Dense
    ) -> Answer:
        (mean, dmean), (var, dvar) = moments
        off = y - mean
        terms = -((off**2 + var) / noise + np.log(2 * PI * noise)) / 2
        error = (abs(off) * dmean + dmean**2 + dvar / 2) / noise
        rounding = (off**2 + var) / noise + abs(np.log(2 * PI * noise))
        rounding = rounding + abs(off) * (abs(y) + abs(mean)) / noise
        error = error.sum() + p.eps * (len(y) + 10) * rounding.sum()
        return terms.sum() - kl[0], error + kl[1] + p.eps * (abs(terms.sum()) + kl[0])
