"""Reader of the files of `torch.save` (.pth, .bin), without torch and without executing their code.

A file of torch >= 1.6 is an uncompressed zip archive: `*/data.pkl` pickles the structure, see
`torch_pickle.py`, and `*/data/KEY` are the bytes of the storages that its tensors view.
"""

import math
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxmodels.convert.tensors import Tensors, reason_of
from jaxmodels.convert.torch_files import torch_pickle
from jaxmodels.convert.torch_files.torch_pickle import Foreign, Storage, View
from jaxmodels.errors import UserError

MAGIC = b"PK\x03\x04"
TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
}
MODULE = {"_parameters", "_buffers", "_modules"}  # attributes of every torch.nn.Module
MAX_MODULES = 10_000  # in a module; a damaged file may hold a module that holds itself


def read_torch(path: Path) -> Tensors:
    """Read the tensors of a flat state dict, or of a whole module by their names in its state dict.

    Raises:
      UserError: the file is truncated, damaged or holds something else; a tensor is not float32,
        float16 or bfloat16.
    """
    try:
        refuse_old_pickle(path)
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


def refuse_old_pickle(path: Path) -> None:
    """Raise UserError for a file of torch before 1.6, a pickle without an archive around it."""
    with open(path, "rb") as file:
        if file.read(1) == b"\x80":
            raise UserError(
                f"{path}: a pickle of torch before 1.6; load it and save it again with a newer "
                "torch"
            )


def _arrays(archive, path) -> dict[str, np.ndarray]:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UserError(f"{path}: a zip file, but not of torch.save (no data.pkl)")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise UserError(
            f"{path}: a TorchScript archive (torch.jit.save); save the state dict of the module"
        )
    if f"{folder}byteorder" in names:
        order = _content(archive, f"{folder}byteorder", path)
        if order != b"little":
            raise UserError(f"{path}: byte order {order[:16]!r}, expected little")
    state = _state_of(_unpickle(_content(archive, pickles[0], path), path), path)
    storages: dict[str, bytes] = {}
    arrays = {}
    for name, view in state.items():
        if not isinstance(name, str) or not isinstance(view, View):
            raise UserError(f"{path}: {_what(name, view)}; expected a flat dict of tensors")
        if not _is_valid(view):
            raise UserError(f"{path}: tensor {name!r} is malformed")
        if view.storage.kind not in TYPES:
            types = ", ".join(TYPES)
            raise UserError(
                f"{path}: tensor {name!r} is {_shown(view.storage.kind)}, expected {types}"
            )
        key = view.storage.key
        if key not in storages:
            storages[key] = _content(archive, f"{folder}data/{key}", path)
        arrays[name] = _array(view, storages[key], name, path)
    return arrays


def _content(archive, name, path) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError as error:
        raise UserError(f"{path}: {_shown(name)!r} is missing in the archive") from error
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"{path}: {name!r} is compressed, unlike in files of torch.save")
    if max(info.compress_size, info.file_size) > path.stat().st_size:
        raise UserError(f"{path}: damaged, {name!r} is larger than the file")
    return archive.read(info)


def _unpickle(data: bytes, path):
    try:
        return torch_pickle.load(data)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:
        raise UserError(f"{path}: damaged, data.pkl cannot be read ({_line(error)})") from error


def _state_of(value, path) -> dict:
    """Return the state dict that a file holds, itself or as a module."""
    if _is_module(value):
        return _state_of_module(value, path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: contains {_kind(value)}, expected a dict of tensors or a module")
    return value


def _is_module(value) -> bool:
    return isinstance(value, Foreign) and value.state.keys() >= MODULE


def _state_of_module(module: Foreign, path) -> dict:
    """Return what `module.state_dict()` would."""
    state, left, seen = {}, [("", module)], 0
    while left:
        prefix, module = left.pop()
        seen += 1
        parts = [module.state[name] or {} for name in ("_parameters", "_buffers", "_modules")]
        if seen > MAX_MODULES or not all(isinstance(part, dict) for part in parts):
            raise UserError(f"{path}: damaged, a module of modules without end or of no tensors")
        parameters, buffers, modules = parts
        passing = module.state.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, list) else []
        kept = {name: x for name, x in buffers.items() if name not in passing}
        own = parameters | kept
        state |= {f"{prefix}{name}": x for name, x in own.items() if x is not None}
        left += [(f"{prefix}{name}.", x) for name, x in modules.items() if _is_module(x)]
    return state


def _what(name, value) -> str:
    """Say what stands where a tensor was expected."""
    if not isinstance(name, str):
        return f"a key is {_kind(name)}"
    if _is_module(value):
        return f"{name!r} is a module, {_shown(value.origin)}; save it alone"
    if isinstance(value, Foreign):
        return f"{name!r} is made by {_shown(value.origin)}, only tensors are read"
    return f"{name!r} is {_kind(value)}, not a tensor"


def _kind(value) -> str:
    if isinstance(value, Foreign):
        return f"an object made by {_shown(value.origin)}"
    return f"a {type(value).__name__}"


def _shown(text: str) -> str:
    """Return the text of a file for a message, short and without control characters."""
    return ascii(text[:100])[1:-1]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {reason_of(error)}"


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
