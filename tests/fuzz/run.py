"""Random problems against dense references: `make fuzz N=10000`.

Prints how far each kind of answer came to its bound, and fails on any value beyond it,
any silent NaN, any error that is no sentence.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import answers
import jax
import problems
from tally import Tally

DTYPES = ("float32", "float64")
A_PROGRAM = 100  # problems that share their compiled programs


@contextlib.contextmanager
def strictly(dtype: str):
    """The width of a test, and an error where JAX would promote a dtype or a rank."""
    with (
        jax.enable_x64(dtype == "float64"),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        yield


def batch(seed: int, dtype: str, n_problems: int, most_data: int = 60) -> Tally:
    """The findings of `n_problems` of one structure."""
    tally, about = Tally(), problems.structure(seed, dtype, most_data)
    with strictly(dtype):
        for index in range(n_problems):
            tally.where = f"{dtype} seed {seed} index {index}"
            answers.check(problems.problem(seed, index, about), tally, index)
    return tally


def _batch(job: tuple[int, str, int]) -> Tally:
    tally = batch(*job)
    jax.clear_caches()  # no other structure meets these programs
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, help="problems, half of each float width")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    of_a_width = -(-options.n // len(DTYPES))
    n_programs = -(-of_a_width // A_PROGRAM)
    size, start = -(-of_a_width // n_programs), time.perf_counter()
    seeds = range(options.first_seed, options.first_seed + n_programs)
    jobs = [(seed, dtype, size) for seed, dtype in itertools.product(seeds, DTYPES)]
    total, spawn = Tally(), multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.processes, spawn) as pool:
        for done, tally in enumerate(pool.map(_batch, jobs), 1):
            total.add(tally)
            if done % 20 == 0:
                print(f"{done} of {len(jobs)} programs", file=sys.stderr, flush=True)
    total.judge_residuals()
    print(total.report())
    print(f"{size * len(jobs)} problems, {time.perf_counter() - start:.0f} s")
    return bool(total.faults)


if __name__ == "__main__":
    sys.exit(main())
