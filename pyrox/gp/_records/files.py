"""Objects in files: arrays and a structure, no code."""

import os
from importlib.metadata import version
from typing import Any

from . import archive
from .structure import Reader, Writer


def save(path: str | os.PathLike[str], obj: Any) -> None:
    """Write a posterior, paths or what else pyrox makes to a file. `load` reads it.

    Kernels with or without priors, processes before and after data (exact, sparse, of
    several outputs), guides, solvers, samplers, paths, ensembles, fits, optima and the
    state of a Thompson loop; arrays, PRNG keys, numbers and strings; and dicts with
    strings as keys, lists and tuples of them. Numbers come back bit by bit, an array
    that is in two places is written once.

    A file holds arrays and a structure, and no code: what is code is refused by name.
    That is a kernel class of one's own, a mean function other than `ConstantMean`, a
    likelihood, and priors beyond NumPyro's common ones. A mesh of devices is left out.

    It is written beside `path` and renamed, so that a file there is replaced by a whole
    one or stays as it was. `docs/file_format.md` describes it.

    Args:
        path: a file name; any suffix.
        obj: what to save.

    Raises:
        ValueError: something that cannot be saved; the sentence names it and says what
            to do. A path that is a folder.
        OSError: the system's, where it cannot be written.

    Cost: a copy of the arrays, and their checksum: about a second a gigabyte.

    Example:
        >>> import os, tempfile
        >>> import jax, jax.numpy as jnp
        >>> from pyrox.gp import RBF, GPPrior, PathwiseSampler, load, save
        >>> prior = GPPrior(RBF(), X=jnp.zeros((1, 1)))
        >>> paths = PathwiseSampler(prior, 64).sample_paths(jax.random.key(0), 5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     name = os.path.join(folder, "paths.pyrox")
        ...     save(name, {"paths": paths, "about": "a prior"})
        ...     found = load(name)
        >>> found["about"], bool((found["paths"]([[0.5]]) == paths([[0.5]])).all())
        ('a prior', True)
    """
    writer = Writer()
    try:
        node = writer.node(obj)
    except RecursionError:
        raise ValueError(
            "`save(path, obj)`: the object nests too deep, or holds itself. Save its "
            "parts in files of their own."
        ) from None
    header = {"pyrox": version("pyrox-gp"), "arrays": writer.listed(), "object": node}
    archive.write(path, header, writer.arrays)


def load(path: str | os.PathLike[str]) -> Any:
    """What `save` wrote to a file, in this process or another.

    Nothing in the file is run: its classes are looked up in a table of pyrox's own,
    their fields are set without a call of anything, and a word that is not in the table
    is an error. A file of a stranger can therefore do no more than hold wrong numbers;
    the checksum finds accidents, not forgery.

    Args:
        path: the file's name.

    Raises:
        ValueError: a file that `save` did not write, of another version, cut short or
            changed; float64 arrays where JAX has only 32 bits.
        OSError: the system's, where there is no such file, say.

    Cost: that of `save`; memory of at most three times the file.

    Example:
        >>> import os, tempfile
        >>> from pyrox.gp import Matern, load, save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     name = os.path.join(folder, "kernel.pyrox")
        ...     save(name, 2.0 * Matern(nu=1.5))
        ...     float(load(name).factor), load(name).kernel.nu
        (2.0, 1.5)
    """
    call = f"load({os.fspath(path)!r})"
    header, data = archive.read(call, path)
    if not isinstance(header, dict) or header.keys() != {"pyrox", "arrays", "object"}:
        archive.damaged(call, "its header has other entries")
    arrays = archive.arrays_of(call, header["arrays"], data)
    try:
        return Reader(call, arrays).value(header["object"])
    except RecursionError:
        archive.damaged(call, "its header nests too deep")
