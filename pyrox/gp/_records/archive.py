"""The bytes of a file: a header, arrays, a checksum. `docs/file_format.md` tells it."""

import contextlib
import hashlib
import json
import os
import secrets
import stat
import struct
from pathlib import Path
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

MAGIC = b"\x93PYROX\r\n"  # bytes that a transfer as text would spoil
VERSION = 1
_START = struct.Struct("<8sIQ")  # these, the version, the length of the header
_DIGEST = hashlib.sha256().digest_size
MOST_HEADER = 2**22  # bytes; 10^5 times what a posterior needs

_BFLOAT16 = "bfloat16"  # its bits are stored, as those of a uint16
DTYPES = (
    "bool",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    *("float16", _BFLOAT16, "float32", "float64"),
)


def write(path: str | os.PathLike[str], header: Any, arrays: list[np.ndarray]) -> None:
    """The file whole or not at all: written beside it, then renamed to it."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise ValueError(
            f"`save(path, obj)` must be given the name of a file. Got "
            f"{os.fspath(path)!r}, which is none. Add a name to it."
        )
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            _write(file, json.dumps(header, allow_nan=False).encode(), arrays)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            part.chmod(stat.S_IMODE(target.stat().st_mode))
        part.replace(target)
    finally:
        with contextlib.suppress(OSError):  # it was renamed
            part.unlink()


def _write(file: Any, header: bytes, arrays: list[np.ndarray]) -> None:
    if len(header) > MOST_HEADER:
        raise ValueError(
            f"`save(path, obj)`: the structure takes {len(header)} bytes, and a file "
            f"holds {MOST_HEADER}. Save its parts in files of their own."
        )
    digest = hashlib.sha256()
    for chunk in (_START.pack(MAGIC, VERSION, len(header)), header, *map(_raw, arrays)):
        digest.update(chunk)
        file.write(chunk)
    file.write(digest.digest())


def _raw(array: np.ndarray) -> bytes:
    if array.dtype.name == _BFLOAT16:
        array = array.view(np.uint16)
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def read(call: str, path: str | os.PathLike[str]) -> tuple[Any, memoryview]:
    """The header, as JSON has it, and the bytes of the arrays.

    Raises:
        ValueError: not such a file, of another version, cut short or changed.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        start = file.read(_START.size) if stat.S_ISREG(status.st_mode) else b""
        if len(start) < _START.size or not start.startswith(MAGIC):
            raise ValueError(
                f"`{call}`: this is not a file that `pyrox.gp.save` wrote. Give the "
                "name of one."
            )
        _, version, length = _START.unpack(start)
        if version != VERSION:
            raise ValueError(
                f"`{call}`: the file has version {version} of the format, and this "
                f"pyrox reads version {VERSION}. Load it with the pyrox that wrote it, "
                "or with a newer one."
            )
        if length > min(MOST_HEADER, status.st_size - _START.size - _DIGEST):
            damaged(call, "its header is longer than it may be")
        body = memoryview(file.read())
    content, digest = body[:-_DIGEST], body[-_DIGEST:]
    found = hashlib.sha256(start)
    found.update(content)
    if found.digest() != digest:
        damaged(call, "its checksum is not that of its content")
    return _header(call, bytes(content[:length])), content[length:]


def _header(call: str, text: bytes) -> Any:
    def pairs(items):
        found = dict(items)
        if len(found) < len(items):
            damaged(call, "its header says something twice")
        return found

    def constant(name):
        damaged(call, f"its header has {name} in place of a number")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        damaged(call, "its header is no JSON")


def damaged(call: str, why: str) -> NoReturn:
    raise ValueError(
        f"`{call}`: the file is damaged or was edited: {why}. Save it anew, or take a "
        "copy of it that is whole."
    )


def arrays_of(call: str, given: Any, data: memoryview) -> list[np.ndarray]:
    """The arrays that a header lists, one after the other in `data`."""
    if not isinstance(given, list):
        damaged(call, "it lists no arrays")
    found, at = [], 0
    for entry in given:
        dtype, shape = _as_entry(call, entry)
        stored = np.dtype(np.uint16) if dtype.name == _BFLOAT16 else dtype
        count = 1
        for size in shape:  # of Python's integers, which do not overflow
            count *= size
        end = at + count * stored.itemsize
        if end > len(data):
            damaged(call, "its arrays are longer than the file")
        values = np.frombuffer(data, stored.newbyteorder("<"), count, at)
        values = values.astype(stored)  # a copy, aligned
        found.append(values.view(dtype).reshape(shape))
        at = end
    if at != len(data):
        damaged(call, "it is longer than its arrays")
    return found


def _as_entry(call: str, entry: Any) -> tuple[np.dtype, tuple[int, ...]]:
    match entry:
        case [str(name), list(shape)] if name in DTYPES and len(shape) <= 32:
            whole = all(type(n) is int and 0 <= n < 2**40 for n in shape)
            if whole and (0 not in shape or max(shape) < 2**20):
                return np.dtype(jnp.dtype(name)), tuple(shape)
    damaged(call, f"it lists an array {str(entry)[:60]}")
