"""The tensors of a folder as Hugging Face has it: one file, or an index and the files it names."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxmodels.convert.tensors import Tensors, read_safetensors
from jaxmodels.convert.torch_files.torch_zip import read_torch
from jaxmodels.data.readers.files import json_document
from jaxmodels.errors import UserError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
# The first of these files counts, as in transformers.
READERS = {
    WEIGHTS: read_safetensors,
    INDEX: read_safetensors,
    "pytorch_model.bin": read_torch,
    "pytorch_model.bin.index.json": read_torch,
}


def write_texts(folder: Path, files: Mapping[str, str]) -> None:
    """Write name -> text into a folder, as UTF-8."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def read_weights(folder: Path) -> Tensors:
    """Read the tensors of a folder.

    Raises:
      UserError: none of the files in `READERS`, or one is damaged or lacks a tensor of the index.
    """
    for name, read in READERS.items():
        if (folder / name).is_file():
            path = folder / name
            return _read_shards(path, read) if name.endswith(".json") else read(path)
    raise UserError(f"{folder}: no weights in this folder; expected one of {', '.join(READERS)}")


def _read_shards(index: Path, read) -> Tensors:
    fields, _ = json_document(index, dict, "an index of weights")
    places = fields.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(x, str) for x in places.values()):
        raise UserError(f"{index}: field 'weight_map' must map tensors to files")
    arrays: dict[str, np.ndarray] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise UserError(f"{index}: {name!r:.100} is not a plain file name")
        shard = read(index.parent / name)
        for tensor in shard.arrays:
            if places.get(tensor) != name:
                raise UserError(
                    f"{shard.path}: tensor {tensor!r} is not in the index for this file"
                )
        arrays |= shard.arrays
    return Tensors(index, arrays)
