"""The threads of the BLAS library that JAX calls on a CPU."""

import contextlib
import ctypes
from collections.abc import Iterator

import scipy.linalg.cython_lapack  # pyright: ignore[reportMissingImports] (compiled)


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Factorisations inside this context run on one thread, where that can be chosen.

    JAX factors a matrix on a CPU by SciPy's OpenBLAS, which wakes a thread on every
    core for a 133 x 133 matrix already. The threads then wait for each other: on two
    cores that had other work the gradient of a log-density of 133 points took 124 ms,
    and 1.1 ms on one thread. Where SciPy brings another BLAS nothing happens.
    """
    library = ctypes.CDLL(scipy.linalg.cython_lapack.__file__)
    set_threads = getattr(library, "scipy_openblas_set_num_threads", None)
    if set_threads is None:
        yield
        return
    before = library.scipy_openblas_get_num_threads()
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)
