"""Named arrays of a file, the safetensors format, and writing whole or not at all."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxmodels.errors import UserError

FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Tensors:
    """What a file holds: arrays by name, each of which must be expected by somebody.

    Attributes:
      path: for messages.
      arrays: float32, float16 or bfloat16, in any shape.
    """

    def __init__(self, path: Path, arrays: dict[str, np.ndarray]):
        self.path = path
        self.arrays = arrays
        self._known: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def shape(self, name: str, ndim: int | None = None) -> tuple[int, ...]:
        """The shape of a tensor.

        Raises:
          UserError: it is not there, or has not `ndim` axes.
        """
        if name not in self.arrays:
            raise UserError(f"{self.path}: tensor {name!r} is missing; {self._has()}")
        shape = self.arrays[name].shape
        if ndim is not None and len(shape) != ndim:
            raise UserError(f"{self.path}: tensor {name!r} has shape {shape}, expected {ndim} axes")
        return shape

    def expect(self, name: str, shape: tuple[int, ...], *, loose: bool = False) -> None:
        """Raises UserError if the tensor is missing or not of this shape.

        With `loose` any shape with as many elements will do: formats differ in axes of size 1 and
        in whether heads are an axis.
        """
        got = self.shape(name)
        if not (math.prod(got) == math.prod(shape) if loose else got == tuple(shape)):
            raise UserError(f"{self.path}: tensor {name!r} has shape {got}, expected {shape}")
        self._known.add(name)

    def take(self, name: str) -> np.ndarray:
        """The tensor as float32."""
        return self.arrays[name].astype(np.float32)

    def finish(self) -> None:
        """Raises UserError if there is a tensor that nobody expected."""
        left = [name for name in self.arrays if name not in self._known]
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise UserError(
                f"{self.path}: unexpected tensor {left[0]!r}{more}; this model has no such tensor"
            )

    def count_layers(self, prefix: str) -> int:
        """How many layers' tensors there are: distinct numbers after `prefix`, at least 1."""
        names = [name.removeprefix(prefix) for name in self.arrays if name.startswith(prefix)]
        numbers = {name.split(".")[0] for name in names}
        return max(1, sum(number.isdecimal() for number in numbers))

    def _has(self) -> str:
        names = list(self.arrays)
        return (
            f"the file has {len(names)} tensors: {', '.join(names[:3])} ..." if names else "empty"
        )


def read_safetensors(path: Path) -> Tensors:
    """Raises UserError: unreadable, truncated, malformed, or another type than floats."""
    arrays = {}
    try:
        with safe_open(path, framework="np") as file:
            for name in file.keys():
                kind = file.get_slice(name).get_dtype()
                if kind not in FLOATS:
                    raise UserError(
                        f"{path}: tensor {name!r} has type {kind}, expected {', '.join(FLOATS)}"
                    )
                arrays[name] = file.get_tensor(name)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a whole safetensors file ({reason}); copy or download it again"
        ) from error
    return Tensors(path, arrays)


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata=None) -> None:
    """A new file."""
    with open(path, "xb") as file:
        mode = os.fstat(file.fileno()).st_mode
    save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, path, metadata)
    os.chmod(path, mode)  # safetensors leaves a file that only its owner may read
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def written_whole(destination: Path) -> Iterator[Path]:
    """A temporary path beside `destination` to write a file or folder to, renamed when all is done.

    Raises:
      UserError: the destination exists, or its folder does not.
    """
    must_be_new(destination)
    if not destination.parent.is_dir():
        raise UserError(f"{destination}: no folder {str(destination.parent)!r}; create it first")
    temporary = destination.parent / f".{destination.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        must_be_new(destination)  # what another process has written meanwhile stays
        os.rename(temporary, destination)
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror})") from error
    except SafetensorError as error:  # a full disk, out of its writer
        raise UserError(f"{destination}: cannot be written ({error})") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def must_be_new(destination: Path) -> None:
    """Raises UserError if the path exists."""
    if os.path.lexists(destination):
        raise UserError(f"{destination}: exists already; name a new one or remove it")
