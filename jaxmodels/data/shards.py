"""Shards of projected contexts on the disk, for replay: float16 vectors and their targets (F-16).

    00000.x.npy, 00000.y.npy, ...   float16 (n, d) and int32 (n,)
    index.json                      width, what they were made from, rows and checksum of each shard

A field learns from features alone, so that projecting once and replaying saves the sketch. The
index is written last: a folder with one is whole.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.cli import write_atomically
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json

INDEX = "index.json"
DTYPES = {"x": "float16", "y": "int32"}


def write_shards(
    folder: str | Path,
    batches: Iterable[tuple[np.ndarray, np.ndarray]],
    about: Mapping[str, Any] | None = None,
) -> int:
    """Write pairs (features (n, d), targets (n,)) as one shard each; return the number of rows.

    Args:
      folder: created if absent.
      batches: the pairs.
      about: JSON-like settings that the features depend on, for `Shards`.

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
    about = dict(about or {})
    index = {"width": width, "dtypes": DTYPES, "about": about, "shards": shards}
    write_atomically(folder / INDEX, json.dumps(index, indent=1))
    return sum(shard["rows"] for shard in shards)


class Shards(Sequence[tuple[np.ndarray, np.ndarray]]):
    """The shards of a folder: pairs (features float16 (n, d), targets int32 (n,)).

    Attributes:
      about: settings that the features depend on.

    Args:
      folder: as `write_shards` wrote it.
      width: d that the reader expects; None for any.
      about: what the reader expects there; None for anything.

    Raises:
      UserError: no index, another width, or other settings; on access, a shard that is missing,
        truncated or altered.
    """

    INDEX = INDEX

    def __init__(
        self, folder: str | Path, width: int | None = None, about: Mapping[str, Any] | None = None
    ):
        self.folder = Path(folder)
        try:
            index = decode_json((self.folder / INDEX).read_text(encoding="utf-8"))
            stored, self.about = index["width"], dict(index["about"])
            self._digests = [[shard[name] for name in DTYPES] for shard in index["shards"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self.folder / INDEX}: no index of shards; write them again"
            ) from error
        if width not in (None, stored):
            raise UserError(f"{folder}: features of width {stored}, but the model reads {width}")
        for name, value in ({} if about is None else about).items():
            if self.about.get(name) != value:
                raise UserError(
                    f"{folder}: contexts of {name}={self.about.get(name)}, but the model has "
                    f"{value}; name another folder"
                )

    def __len__(self) -> int:
        return len(self._digests)

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        arrays = []
        for name, digest in zip(DTYPES, self._digests[number], strict=True):
            path = self.folder / f"{number:05d}.{name}.npy"
            try:
                content = path.read_bytes()
            except OSError as error:
                raise UserError(f"{path}: missing; write the shards again") from error
            if hashlib.sha256(content).hexdigest() != digest:
                raise UserError(f"{path}: truncated or altered; write the shards again")
            arrays.append(np.load(io.BytesIO(content)))
        return tuple(arrays)
