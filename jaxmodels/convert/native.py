"""Native folders: `config.json` (`jaxmodels.config_to_json`) and `weights.safetensors`.

Arrays are named like the leaves, e.g. `layers.time.key.kernel`, with stacked layers.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import jaxmodels
from jaxmodels.convert.folder import write_texts
from jaxmodels.convert.rows import abstract_model, fill, leaves_of
from jaxmodels.convert.tensors import read_safetensors, reason_of, write_safetensors
from jaxmodels.data.readers.files import json_document
from jaxmodels.errors import UserError
from jaxmodels.writing import written_whole

CONFIG, WEIGHTS = "config.json", "weights.safetensors"


def read(folder: Path):
    """Read the model of a folder.

    Raises:
      UserError: a file is missing or damaged, or the arrays do not fit the config.
    """
    config = _config(folder / CONFIG)
    tensors = read_safetensors(folder / WEIGHTS)
    layers = getattr(config, "num_layers", None)
    stacked = {x.shape[:1] for name, x in tensors.arrays.items() if name.startswith("layers.")}
    if stacked and layers is not None and stacked != {(layers,)}:
        # Checked first: a damaged config may state so many layers that tracing would not end.
        counts = ", ".join(str(shape[0] if shape else "none") for shape in sorted(stacked))
        raise UserError(f"{tensors.path}: {counts} layers in the arrays, {layers} in the config")
    with _fields_of(folder / CONFIG):
        abstract = abstract_model(config)
    return fill(abstract, tensors)


def write(model, destination: Path, files: Mapping[str, str] | None = None) -> None:
    """Write a new folder; raise UserError if it exists, or for a model that is not in MODELS.

    Args:
      model: the model.
      destination: new folder.
      files: name -> text of other files in it.
    """
    text = jaxmodels.config_to_json(model.config)  # raises for a model that is not in MODELS
    with written_whole(destination) as temporary:
        temporary.mkdir()
        arrays = {name: np.asarray(leaf) for name, leaf in leaves_of(model).items()}
        write_safetensors(temporary / WEIGHTS, arrays)
        write_texts(temporary, {**(files or {}), CONFIG: text + "\n"})


def _config(path: Path):
    fields, text = json_document(path, dict, "a model's config")
    if not isinstance(fields.get("model"), str):
        raise UserError(f"{path}: field 'model' must be the name of a model")
    with _fields_of(path):
        return jaxmodels.config_from_json(text)


@contextlib.contextmanager
def _fields_of(path: Path):
    """Report errors of the block as errors of a field of this file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        reason = f"{type(error).__name__}: {reason_of(error)}"
        raise UserError(f"{path}: a field has a wrong type or size ({reason})") from error
