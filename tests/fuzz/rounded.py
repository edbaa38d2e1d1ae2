"""Long double numbers, each with a bound on what a shorter type makes of it."""

import dataclasses

import numpy as np

Long = np.longdouble
PI = 4 * np.arctan(Long(1))


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A value, and the first-order error of computing it, in units of eps."""

    value: np.ndarray
    error: np.ndarray

    def __add__(self, other: "Rounded") -> "Rounded":
        total = self.value + other.value
        return Rounded(total, self.error + other.error + abs(total))

    def __mul__(self, other: "Rounded") -> "Rounded":
        product = self.value * other.value
        error = self.error * abs(other.value) + abs(self.value) * other.error
        return Rounded(product, error + abs(product))

    def __getitem__(self, index) -> "Rounded":
        return Rounded(self.value[index], self.error[index])


def steps(n: int) -> float:
    """How many eps a sum of `n` products, and what is built of such sums, may be off.

    Errors of rounding add up like independent ones, to sqrt(n) eps with a factor that
    is exceeded with negligible chance (Higham & Mary 2019, SIAM J. Sci. Comput. 41).
    """
    return 5 * np.sqrt(n) + 5
