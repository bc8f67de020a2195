"""rwkv.cpp model files (`.bin`) of RWKV-4, -6 and -7, in FP32 and FP16.

    int32 magic "ggmf", file version (100, 101), vocab, width, layers, type
    then tensors: int32 axes, length of the name, type; int32 sizes, last axis first; name; data

Source: RWKV/rwkv.cpp (docs/FILE_FORMAT.md, python/convert_pytorch_to_ggml.py, rwkv_graph.inc). Its
converter writes BlinkDL's tensors (see `blinkdl.py`) with these changes:

    version 4   time_decay as -exp(time_decay)
    version 6   time_maa_w1, time_maa_w2, time_decay_w1, time_decay_w2 with their last axes swapped
    version 7   w1, w2, a1, a2, v1, v2, g1, g2 swapped; x_r to x_g joined as x_rwkvag; no v0, v1, v2
                in the first layer
    FP16        matrices only; vectors, of any number of axes, and time_* stay FP32
"""

import math
import os
import struct
from pathlib import Path

import numpy as np

from jaxmodels.cells.rwkv7 import MIXED
from jaxmodels.convert import blinkdl
from jaxmodels.convert.tensors import Tensors
from jaxmodels.errors import UserError
from jaxmodels.models.rwkv import RWKV
from jaxmodels.writing import written_whole

MAGIC = b"fmgg"  # "ggmf" as a little-endian number
TYPES = (np.dtype("<f4"), np.dtype("<f2"))
QUANTISED = {2: "Q4_0", 3: "Q4_1", 7: "Q5_0", 8: "Q5_1", 9: "Q8_0"}
SWAPPED = [f"time_{name}_w{n}" for name in ("maa", "decay") for n in (1, 2)]
SWAPPED += [f"{name}{n}" for name in "wavg" for n in (1, 2)]
# Parts of names of tensors that stay FP32.
FULL = (".time_", ".k_k", ".k_a", ".r_k", ".x_rwkvag", ".x_k", ".w0", ".a0", ".v0")
TINY = np.finfo(np.float32).tiny


def read(path: Path) -> RWKV:
    """Read the model of a file.

    Raises:
      UserError: truncated, an unsupported kind, version or type, or tensors that do not fit.
    """
    header, arrays = read_file(path)
    tensors = Tensors(path, arrays)
    vocab, width = tensors.shape("emb.weight", 2)
    layers = tensors.count_layers("blocks.")
    for field, size in (("vocab", vocab), ("width", width), ("layers", layers)):
        if header[field] != size:
            raise UserError(
                f"{path}: {field} is {header[field]} in the header, {size} in the tensors"
            )
    return blinkdl.from_tensors(to_blinkdl(tensors))


def write(model: RWKV, destination: Path, dtype: str = "float32") -> None:
    """Write a new file of version 101.

    Args:
      model: RWKV-4, -6 or -7.
      destination: new file.
      dtype: dtype of the matrices, "float32" or "float16".

    Raises:
      UserError: another model, the destination exists, or a weight is too large for float16.
    """
    half = dtype == "float16"
    arrays = from_blinkdl(blinkdl.tensors_of(model), model.config)
    c = model.config
    with written_whole(destination) as temporary, open(temporary, "xb") as file:
        file.write(MAGIC + struct.pack("<5i", 101, c.vocab_size, c.width, c.num_layers, half))
        for name, array in arrays.items():
            kind = int(half and array.ndim > 1 and not any(part in name for part in FULL))
            if kind and np.abs(array).max() > np.finfo(np.float16).max:
                raise UserError(f"tensor {name!r} is too large for float16; write float32")
            key = name.encode()
            file.write(struct.pack("<3i", array.ndim, len(key), kind))
            file.write(struct.pack(f"<{array.ndim}i", *reversed(array.shape)))
            file.write(key + array.astype(TYPES[kind]).tobytes())
        file.flush()
        os.fsync(file.fileno())


def to_blinkdl(tensors: Tensors) -> Tensors:
    """Return the tensors of a file in BlinkDL's layout."""
    version = blinkdl.version_of(tensors)
    arrays = {}
    for name, array in tensors.arrays.items():
        part = name.rpartition(".")[2]
        if part in SWAPPED:
            tensors.shape(name, 3 if part == "time_maa_w2" else 2)
            arrays[name] = array.swapaxes(-1, -2)
        elif part == "x_rwkvag":
            tensors.expect(name, (len(MIXED), 1, array.shape[-1]), loose=True)
            joined = array.reshape(len(MIXED), -1)
            arrays |= {name.replace(part, f"x_{m}"): x for m, x in zip(MIXED, joined, strict=True)}
        elif part == "time_decay" and version == 4:
            if not (array <= 0.0).all():
                raise UserError(f"{tensors.path}: tensor {name!r} must be -exp(x), got values > 0")
            # Avoid log(0): exp(-TINY) equals 1 in float32.
            arrays[name] = np.log(np.maximum(-array.astype(np.float64), TINY)).astype(np.float32)
        else:
            arrays[name] = array
    if version == 7:
        for i in range(tensors.count_layers("blocks.")):
            tensors.shape(f"blocks.{i}.att.x_rwkvag")
    return Tensors(tensors.path, arrays)


def from_blinkdl(arrays: dict[str, np.ndarray], config) -> dict[str, np.ndarray]:
    """Invert `to_blinkdl`."""
    heads = (-1, config.head_size, 1)
    written = {}
    for name, array in arrays.items():
        part = name.rpartition(".")[2]
        if part in SWAPPED:
            array = array.swapaxes(-1, -2)
        elif config.version == 6 and part in ("time_faaaa", "time_decay"):
            array = array.reshape(heads)
        elif part.startswith("time_"):
            array = array.reshape(-1)
        if part == "time_decay" and config.version == 4:
            array = -np.exp(array.astype(np.float64)).astype(np.float32)
        if name in blinkdl.UNUSED:
            continue
        if ".att.x_" in name:
            name = name.replace(part, "x_rwkvag")
            array = np.concatenate([written[name], array]) if name in written else array
        written[name] = array
    return written


def read_file(path: Path) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Return the header {vocab, width, layers} and the tensors as stored in the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    reader = _Reader(path, data)
    if reader.bytes(4) != MAGIC:
        raise UserError(f"{path}: not an rwkv.cpp file, starts with {data[:4]!r}, not {MAGIC!r}")
    version, vocab, width, layers, kind = reader.ints(5)
    if version not in (100, 101):
        raise UserError(
            f"{path}: unsupported rwkv.cpp file version {version}; choose from: 100, 101"
        )
    reader.dtype(kind, "the file")
    arrays: dict[str, np.ndarray] = {}
    while reader.offset < len(data):
        name, array = reader.tensor()
        if name in arrays:
            raise UserError(f"{path}: duplicate tensor {name!r}")
        arrays[name] = array
    return {"vocab": vocab, "width": width, "layers": layers}, arrays


class _Reader:
    """A cursor over the bytes of a file."""

    def __init__(self, path: Path, data: bytes):
        self.path, self.data, self.offset = path, data, 0

    def bytes(self, count: int) -> memoryview:
        left = len(self.data) - self.offset
        if count > left:
            raise UserError(
                f"{self.path}: truncated or damaged, expected {count} bytes at offset "
                f"{self.offset}, got {left}; copy or download it again"
            )
        self.offset += count
        return memoryview(self.data)[self.offset - count : self.offset]

    def ints(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self.bytes(4 * count))

    def dtype(self, kind: int, subject: str) -> np.dtype:
        if kind in (0, 1):
            return TYPES[kind]
        name = QUANTISED.get(kind, f"unknown ({kind})")
        raise UserError(
            f"{self.path}: the type of {subject} is {name}; only FP32 and FP16 are supported; "
            "convert the original again"
        )

    def tensor(self) -> tuple[str, np.ndarray]:
        start = self.offset
        ndim, length, kind = self.ints(3)
        if not (1 <= ndim <= 4 and 1 <= length <= 1000):
            raise UserError(
                f"{self.path}: damaged at offset {start}, a tensor of {ndim} axes with a name "
                f"of {length} bytes"
            )
        shape = self.ints(ndim)[::-1]
        try:
            name = str(self.bytes(length), "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: damaged at offset {start}, a name not UTF-8") from error
        dtype = self.dtype(kind, f"tensor {name!r}")
        if min(shape) < 1:
            raise UserError(
                f"{self.path}: tensor {name!r} has shape {shape}, sizes must be positive"
            )
        data = self.bytes(math.prod(shape) * dtype.itemsize)
        return name, np.frombuffer(data, dtype).reshape(shape)
