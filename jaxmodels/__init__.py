"""Recurrent and hierarchical sequence models in JAX.

A cell is defined by one step; `jax.lax.scan` over the step is the reference, and every faster
implementation is tested equal to it. See `jaxmodels.cells`, `jaxmodels.models` and
`jaxmodels.testing`.
"""

import dataclasses
import json
from typing import Any

import jax
from flax import nnx

from jaxmodels.cells import CELLS
from jaxmodels.cli import did_you_mean
from jaxmodels.config_types import check_types
from jaxmodels.errors import UserError
from jaxmodels.generation.api import generate
from jaxmodels.json_text import decode_json
from jaxmodels.models import MODELS
from jaxmodels.quantized import quantize
from jaxmodels.xla_flags import warn_if_unsafe

__version__ = "0.1.0"
CONFIG_FORMAT = 1  # raised when a field changes its meaning
__all__ = [
    "CELLS",
    "MODELS",
    "UserError",
    "config_from_json",
    "config_to_dict",
    "config_to_json",
    "count_parameters",
    "create",
    "generate",
    "make_config",
    "quantize",
]


def make_config(name: str, /, **overrides):
    """Return the config of `"system"` or `"system/preset"`, with fields replaced.

    Raises:
      UserError: an unknown system, preset or field, or an invalid value.
    """
    system, _, preset = name.partition("/")
    if system not in MODELS:
        raise UserError(f"unknown model {system!r}{did_you_mean(system, MODELS)}")
    config_class, _, presets = MODELS[system]
    if preset and preset not in presets:
        raise UserError(f"unknown preset {name!r}{did_you_mean(preset, presets)}")
    fields = dict(presets[preset] if preset else {}, **overrides)
    names = [field.name for field in dataclasses.fields(config_class)]
    for field in fields:
        if field not in names:
            raise UserError(f"{system} has no field {field!r}{did_you_mean(field, names)}")
    try:
        config = config_class(**fields)
    except UserError:
        raise
    except Exception:  # of the checks of one field, if it is of another type than they expect
        check_types(config_class, fields)
        raise
    check_types(config_class, fields)
    return config


def create(model, seed: int = 0, **overrides) -> nnx.Module:
    """Return a model with newly initialized float32 parameters.

    Args:
      model: "system", "system/preset", or a config object.
      seed: seed of the initialization.
      **overrides: config fields to replace.

    Raises:
      UserError: an unknown system, preset or field, an invalid value or seed, or no config.
    """
    warn_if_unsafe()
    if isinstance(model, str):
        config = make_config(model, **overrides)
    else:
        system = _system_of(model)
        fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}
        config = make_config(system, **fields | overrides)
    try:
        rngs = nnx.Rngs(seed)
    except (ValueError, OverflowError) as error:
        raise UserError(f"seed={seed!r}: give a whole number below 2^63") from error
    return MODELS[_system_of(config)][1](config, rngs=rngs)


def count_parameters(model) -> int:
    """Return the number of scalars in the arrays of a model, or of any pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(model))


def config_to_json(config) -> str:
    """Return a model config as JSON text, with its format, that `config_from_json` reads back."""
    return json.dumps({"format": CONFIG_FORMAT} | config_to_dict(config), indent=2)


def config_to_dict(config) -> dict[str, Any]:
    """Return the fields of a model config as JSON has them, and its system as "model"."""
    fields = {"model": _system_of(config)} | dataclasses.asdict(config)
    return json.loads(json.dumps(fields))


def config_from_json(text: str):
    """Invert `config_to_json`.

    Raises:
      UserError: as `make_config`; no such text; or a format of a newer version of this package.
    """
    try:
        fields = decode_json(text)
    except ValueError as error:
        raise UserError(f"config: no JSON ({error})") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model"), str):
        raise UserError('config: give a JSON object with the name of a system as "model"')
    found = fields.pop("format", 1)
    if type(found) is not int or not 1 <= found <= CONFIG_FORMAT:
        raise UserError(f"config of format {found!r}; this version reads {CONFIG_FORMAT}: update")
    return make_config(fields.pop("model"), **fields)


def _system_of(config) -> str:
    for name, (config_class, _, _) in MODELS.items():
        if type(config) is config_class:
            return name
    raise UserError(f"{type(config).__name__} is not the config of a model in MODELS")
