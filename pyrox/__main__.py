"""`python -m pyrox`: the demonstration."""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; see `pyrox._demo.cli.main`."""
    # JAX factors matrices on a CPU with SciPy's OpenBLAS, which wakes a thread on every
    # core for a 133 x 133 matrix already; on two busy cores NUTS took 111 s so, and
    # 20 s with one thread. It reads this when it is loaded: before JAX is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from ._demo import cli

    return cli.main(argv)


if __name__ == "__main__":
    sys.exit(main())
