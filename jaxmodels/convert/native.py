"""Native folders: `config.json` (`jaxmodels.config_to_json`) and `weights.safetensors`.

Arrays are named like the leaves, e.g. `layers.time.key.kernel`, with stacked layers. A quantized
model has `layers.time.key.kernel.values` in int8 and `.scale`; a model with a learned initial state
has the arrays of its base and `initial_state.<array of the state>`.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

import jaxmodels
from jaxmodels.convert.folder import write_texts
from jaxmodels.convert.rows import abstract_model, fill, leaves_of
from jaxmodels.convert.tensors import Tensors, read_safetensors, reason_of, write_safetensors
from jaxmodels.data.readers.files import json_document
from jaxmodels.errors import UserError
from jaxmodels.quantized import quantize
from jaxmodels.tuning import learn_state
from jaxmodels.writing import written_whole

CONFIG, WEIGHTS = "config.json", "weights.safetensors"
INITIAL = "initial_state."


def read(folder: Path):
    """Read the model of a folder.

    Raises:
      UserError: a file is missing or damaged, or the arrays do not fit the config.
    """
    config = _config(folder / CONFIG)
    tensors = read_safetensors(folder / WEIGHTS, int8=True)
    layers = getattr(config, "num_layers", None)
    stacked = {x.shape[:1] for name, x in tensors.arrays.items() if name.startswith("layers.")}
    if stacked and layers is not None and stacked != {(layers,)}:
        # Checked first: a damaged config may state so many layers that tracing would not end.
        counts = ", ".join(str(shape[0] if shape else "none") for shape in sorted(stacked))
        raise UserError(f"{tensors.path}: {counts} layers in the arrays, {layers} in the config")
    with _fields_of(folder / CONFIG):
        abstract = abstract_model(config)
        if any(array.dtype == np.int8 for array in tensors.arrays.values()):
            abstract = jax.eval_shape(lambda: quantize(jaxmodels.create(config)))
        if any(name.startswith(INITIAL) for name in tensors.arrays):
            tuned = jax.eval_shape(lambda: learn_state(jaxmodels.create(config)))
            tuned.base, abstract = abstract, tuned
    leaves = leaves_of(abstract)
    ours = {_in_file(name): name for name in leaves}
    arrays = {ours.get(name, name): array for name, array in tensors.arrays.items()}
    for name in leaves.keys() & arrays.keys():
        if (leaves[name].dtype == np.int8) != (arrays[name].dtype == np.int8):
            raise UserError(
                f"{tensors.path}: tensor {_in_file(name)!r} is {arrays[name].dtype}, expected "
                f"{leaves[name].dtype}"
            )
    return fill(abstract, Tensors(tensors.path, arrays, called={ours[x]: x for x in ours}))


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
        arrays = {_in_file(name): np.asarray(x) for name, x in leaves_of(model).items()}
        write_safetensors(temporary / WEIGHTS, arrays)
        write_texts(temporary, {**(files or {}), CONFIG: text + "\n"})


def _in_file(name: str) -> str:
    """Return the name in the file of a leaf; of a model with a learned state, as of its base."""
    if name.startswith("initial."):
        return INITIAL + name.removeprefix("initial.").replace("/", ".")
    return name.removeprefix("base.")


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
