"""Shards of projected contexts on the disk, for replay: float16 vectors and their targets (F-16).

    00000.x.npy, 00000.y.npy, ...   float16 (n, d) and int32 (n,)
    index.json                      width, and rows and checksum of each shard

A field learns from features alone, so that projecting once and replaying saves the sketch. The
index is written last: a folder with one is whole.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jaxmodels.cli import write_atomically
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json

INDEX = "index.json"
DTYPES = {"x": "float16", "y": "int32"}


def write_shards(folder: str | Path, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    """Write pairs (features (n, d), targets (n,)) as one shard each; return the number of rows.

    Raises:
      UserError: the folder holds shards, there is nothing to write, widths differ, or a feature is
        NaN, Inf or beyond float16.
    """
    folder = Path(folder)
    if (folder / INDEX).exists():
        raise UserError(f"{folder}: already holds shards; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    shards, width = [], None
    for number, (x, y) in enumerate(batches):
        with np.errstate(over="ignore"):
            x = np.asarray(x).astype(DTYPES["x"])
        if x.ndim != 2 or len(x) != len(y) or (width is not None and x.shape[1] != width):
            raise UserError(
                f"shard {number}: features {x.shape} and targets {np.shape(y)} do not fit to "
                f"{'each other' if width is None else f'width {width}'}"
            )
        width = x.shape[1]
        if not np.isfinite(x).all():
            row = int(np.argmax(~np.isfinite(x).all(1)))
            raise UserError(f"shard {number}: row {row} is NaN, Inf or beyond float16 (65504)")
        sums = {}
        for name, array in (("x", x), ("y", np.asarray(y).astype(DTYPES["y"]))):
            stream = io.BytesIO()
            np.save(stream, array)
            write_atomically(folder / f"{number:05d}.{name}.npy", stream.getvalue())
            sums[name] = hashlib.sha256(stream.getvalue()).hexdigest()
        shards.append({"rows": len(x), **sums})
    if not shards:
        raise UserError(f"{folder}: nothing to write")
    index = {"width": width, "dtypes": DTYPES, "shards": shards}
    write_atomically(folder / INDEX, json.dumps(index, indent=1))
    return sum(shard["rows"] for shard in shards)


def read_shards(folder: str | Path, width: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (features float16 (n, d), targets int32 (n,)) of each shard, in order.

    Args:
      folder: as `write_shards` wrote it.
      width: d that the reader expects.

    Raises:
      UserError: no index, another width, or a shard that is missing, truncated or altered.
    """
    folder = Path(folder)
    try:
        index = decode_json((folder / INDEX).read_text(encoding="utf-8"))
        shards, stored = index["shards"], index["width"]
        digests = [[shard[name] for name in DTYPES] for shard in shards]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / INDEX}: no index of shards; write them again") from error
    if stored != width:
        raise UserError(f"{folder}: features of width {stored}, but the model reads {width}")
    for number, of_shard in enumerate(digests):
        arrays = []
        for name, digest in zip(DTYPES, of_shard, strict=True):
            path = folder / f"{number:05d}.{name}.npy"
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: missing; write the shards again") from error
            if hashlib.sha256(content).hexdigest() != digest:
                raise UserError(f"{path}: truncated or altered; write the shards again")
            arrays.append(np.load(io.BytesIO(content)))
        yield tuple(arrays)
