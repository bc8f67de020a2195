"""Reader of `.pth` files of `torch.save`, without torch and without executing their code.

A file of torch >= 1.6 is an uncompressed zip archive: `*/data.pkl` pickles the structure, in which
a tensor is a call of `_rebuild_tensor_v2` on a storage, and `*/data/KEY` are the storages' bytes.
The unpickler accepts only the names that such a file needs.
"""

import collections
import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxmodels.convert.tensors import Tensors
from jaxmodels.errors import UserError

MAGIC = b"PK\x03\x04"
TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
}
# Opcodes that torch.save writes (protocol 2), and those of lists.
OPCODES = set(
    "PROTO STOP MARK GLOBAL REDUCE BUILD BINPERSID BINPUT LONG_BINPUT BINGET LONG_BINGET NONE "
    "NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_DICT SETITEM SETITEMS "
    "EMPTY_LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3".split()
)


class Storage(NamedTuple):
    """A flat buffer: the name of its type, and its key in the archive."""

    kind: str
    key: str


class View(NamedTuple):
    """A tensor as a strided view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> Tensors:
    """Read the tensors of a flat state dict.

    Raises:
      UserError: the file is truncated, damaged or no dict of tensors; a tensor is not float32,
        float16 or bfloat16; or the pickle imports anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return Tensors(path, _arrays(archive, path))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged archive raises nearly anything
        raise UserError(
            f"{path}: not a complete file of torch.save ({_line(error)}); copy or download it again"
        ) from error


def _arrays(archive, path) -> dict[str, np.ndarray]:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"{path}: a zip file, but not of torch.save (no data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.namelist():
        order = _content(archive, f"{folder}byteorder", path)
        if order != b"little":
            raise UserError(f"{path}: byte order {order[:16]!r}, expected little")
    state = _unpickle(_content(archive, pickles[0], path), path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: contains a {type(state).__name__}, expected a dict of tensors")
    storages: dict[str, bytes] = {}
    arrays = {}
    for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise UserError(f"{path}: {name!r} is not a tensor; expected a flat dict of tensors")
        if not _is_valid(view):
            raise UserError(f"{path}: tensor {name!r} is malformed")
        if view.storage.kind not in TYPES:
            types = ", ".join(TYPES)
            raise UserError(f"{path}: tensor {name!r} is {view.storage.kind}, expected {types}")
        key = view.storage.key
        if key not in storages:
            storages[key] = _content(archive, f"{folder}data/{key}", path)
        arrays[name] = _array(view, storages[key], name, path)
    return arrays


def _content(archive, name, path) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise UserError(f"{path}: {name!r} is missing in the archive") from error
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"{path}: {name!r} is compressed, unlike in files of torch.save")
    return archive.read(info)


class _Unpickler(pickle.Unpickler):
    """An unpickler that builds only dicts, lists, numbers, strings and `View`s."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: View(storage, offset, shape, strides)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda view, *_: view
        if module == "torch" and name.endswith("Storage"):
            return name
        raise UserError(f"the pickle imports {module}.{name}; only tensors are read")

    def persistent_load(self, pid):
        word, kind, key, *_ = pid
        if word != "storage" or not isinstance(kind, str) or not isinstance(key, str):
            raise pickle.UnpicklingError(f"unknown reference {pid!r:.60}")
        return Storage(kind, key)


def _unpickle(data: bytes, path):
    try:
        for opcode, argument, _ in pickletools.genops(data):
            # The memo is an array: a single huge index would allocate all memory.
            if opcode.name not in OPCODES or (
                opcode.name == "LONG_BINPUT" and argument > len(data)
            ):
                raise pickle.UnpicklingError(f"{opcode.name} {argument!r:.20}")
        return _Unpickler(io.BytesIO(data)).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle, too
        raise UserError(f"{path}: damaged, data.pkl cannot be read ({_line(error)})") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _is_valid(view: View) -> bool:
    if not (isinstance(view.shape, tuple) and isinstance(view.strides, tuple)):
        return False
    numbers = (view.offset, *view.shape, *view.strides)
    natural = all(type(n) is int and 0 <= n < 2**48 for n in numbers)
    return natural and isinstance(view.storage, Storage) and len(view.shape) == len(view.strides)


def _array(view: View, data: bytes, name: str, path) -> np.ndarray:
    kind = TYPES[view.storage.kind]
    last = view.offset + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))
    flat = np.frombuffer(data, kind, len(data) // kind.itemsize)
    if 0 not in view.shape and (last >= flat.size or math.prod(view.shape) > flat.size):
        raise UserError(f"{path}: tensor {name!r} needs more bytes than its storage has")
    if 0 in view.shape:
        return np.zeros(view.shape, kind)
    strides = tuple(s * kind.itemsize for s in view.strides)
    return np.lib.stride_tricks.as_strided(flat[view.offset :], view.shape, strides)
