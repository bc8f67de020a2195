"""Named arrays of a file, and reading and writing of safetensors."""

import errno
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.extras import import_extra

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
INT8 = "I8"


class Tensors:
    """The contents of a file. `finish` checks that every array was expected.

    Attributes:
      path: path for messages.
      arrays: float32, float16, bfloat16 or int8 by name.
      metadata: text by name, if the format has it.
      called: name in the file, for messages, where `arrays` has another.
    """

    def __init__(
        self,
        path: Path,
        arrays: dict[str, np.ndarray],
        metadata: Mapping[str, str] | None = None,
        called: Mapping[str, str] | None = None,
    ):
        self.path = path
        self.arrays = arrays
        self.metadata = dict(metadata or {})
        self.called = dict(called or {})
        self._expected: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def shape(self, name: str, ndim: int | None = None) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
          UserError: it is missing, or does not have `ndim` axes.
        """
        if name not in self.arrays:
            raise UserError(f"{self.path}: tensor {name!r} is missing; {self._has()}")
        shape = self.arrays[name].shape
        if ndim is not None and len(shape) != ndim:
            named = self.called.get(name, name)
            raise UserError(
                f"{self.path}: tensor {named!r} has shape {shape}, expected {ndim} axes"
            )
        return shape

    def expect(self, name: str, shape: tuple[int, ...], *, loose: bool = False) -> None:
        """Raise UserError if the tensor is missing or of another shape.

        With `loose`, accept any shape with as many elements: formats differ in axes of size 1 and
        in whether heads are an axis.
        """
        got = self.shape(name)
        if not (math.prod(got) == math.prod(shape) if loose else got == tuple(shape)):
            named = self.called.get(name, name)
            raise UserError(f"{self.path}: tensor {named!r} has shape {got}, expected {shape}")
        self._expected.add(name)

    def take(self, name: str) -> np.ndarray:
        """Return the tensor as float32, or int8 if it is that."""
        array = self.arrays[name]
        return array if array.dtype == np.int8 else array.astype(np.float32)

    def finish(self) -> None:
        """Raise UserError if a tensor was not expected."""
        left = [name for name in self.arrays if name not in self._expected]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            named = self.called.get(left[0], left[0])
            raise UserError(
                f"{self.path}: unexpected tensor {named!r}{more}; the model has no such tensor"
            )

    def count_layers(self, prefix: str) -> int:
        """Return the number of distinct numbers after `prefix`."""
        names = [name.removeprefix(prefix) for name in self.arrays if name.startswith(prefix)]
        numbers = {name.split(".")[0] for name in names}
        return sum(number.isdecimal() for number in numbers)

    def _has(self) -> str:
        if not self.arrays:
            return "empty"
        return f"the file has {len(self.arrays)} tensors: {self.some_names()} ..."

    def some_names(self) -> str:
        """Return a few of the names, control characters escaped, or "none"."""
        names = [self.called.get(name, name) for name in list(self.arrays)[:3]]
        return ", ".join(ascii(name[:100])[1:-1] for name in names) or "none"


def read_safetensors(path: Path, *, int8: bool = False) -> Tensors:
    """Read every tensor and the metadata of a file; `int8` accepts tensors of that type, too.

    Raises:
      UserError: unreadable, truncated, malformed, or not floats.
    """
    safetensors = import_extra("safetensors")
    arrays = {}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            for name in file.keys():
                kind = file.get_slice(name).get_dtype()
                if kind not in FLOATS and not (int8 and kind == INT8):
                    raise UserError(
                        f"{path}: tensor {name!r} has type {kind}, expected {', '.join(FLOATS)}"
                    )
                arrays[name] = file.get_tensor(name)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path}: not a complete safetensors file ({reason_of(error)}); copy or download it "
            "again"
        ) from error
    return Tensors(path, arrays, metadata)


def reason_of(error: Exception) -> str:
    """Return the message of an error for one line; it may hold bytes of the file."""
    words = " ".join(str(error).split())[:300]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata=None) -> None:
    """Write a new file.

    Raises:
      OSError: the path exists or cannot be written.
      UserError: safetensors is not installed.
    """
    safetensors, numpy_format = import_extra("safetensors"), import_extra("safetensors.numpy")
    with open(path, "xb") as file:
        mode = os.fstat(file.fileno()).st_mode
    try:
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        numpy_format.save_file(arrays, path, metadata)
    except safetensors.SafetensorError as error:  # e.g. a full disk
        raise OSError(errno.EIO, str(error)) from error
    os.chmod(path, mode)  # safetensors makes the file private to its owner
    with open(path, "rb") as file:
        os.fsync(file.fileno())
