"""The base of a tuned model: a run's model or a converted one, known by its fingerprint.

A run names its base by folder and SHA-256; checkpoints hold neither its weights nor moments of
them. A base that has moved is named anew, `--config.tune.base` for the trainer and `--base` for the
evaluators; its fingerprint must be the same.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels import convert
from jaxmodels.data.tokenizers.folder import DEFAULT, has_tokenizer, is_read, read_tokenizer
from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.paths import is_dir, user_path
from jaxmodels.quantized import is_quantized
from jaxmodels.tree import flatten, unflatten
from jaxmodels.tuning import InitialState, learn_additions, learn_state

EXPERIMENT = ("dtype", "seq_len")  # fields of a model that belong to the experiment


@dataclasses.dataclass(frozen=True)
class Base:
    """A model to be tuned.

    Attributes:
      model: the module with its arrays.
      name, fields: `config.model` and `config.model_config` of an experiment with it.
      tokenizer: of the base, for `config.data.tokenizer`; "" if it is not known.
      fingerprint: SHA-256 of its arrays and its config.
    """

    model: nnx.Module
    name: str
    fields: dict[str, Any]
    tokenizer: str
    fingerprint: str


def open_base(config: ConfigDict, load_model: Callable) -> Base | None:
    """Read the base of an experiment, None if it has none.

    Args:
      config: complete config; a stated `tune.fingerprint` must be that of the base.
      load_model: `train.io.checkpoint.load_model`; of a run, the best checkpoint is read.

    Raises:
      UserError: no such base, unreadable, or another one.
    """
    if not config.tune.kind:
        return None
    folder = user_path(config.tune.base, "config.tune.base=")
    try:
        base = _of_run(folder, load_model) if _is_run(folder) else _converted(folder)
        _check_ordinary(base.model, folder)
    except UserError as error:
        again = f"; name its folder by --base or --config.tune.base{_known(config)}"
        raise UserError(f"config.tune.base: {error}{again}") from error
    if config.tune.fingerprint not in ("", base.fingerprint):
        raise UserError(
            f"config.tune.base: {folder} is another model (SHA-256 {base.fingerprint[:12]}) than "
            f"the one that was tuned ({config.tune.fingerprint[:12]}); name that by --base or "
            "--config.tune.base"
        )
    return base


def with_base_of(config: ConfigDict, base: Base | None) -> ConfigDict:
    """Return the config with model, tokenizer and fingerprint of its base.

    Raises:
      UserError: the config states another model or tokenizer.
    """
    if base is None:
        return config
    stated = config.model.partition("/")[0]
    if stated not in ("", base.name.partition("/")[0]):
        raise UserError(
            f"config.model: {config.model!r}, but {config.tune.base} is {base.name!r}; leave "
            "config.model out"
        )
    own, stated = base.tokenizer, config.data.tokenizer
    # The path of a base that has moved may be another.
    if own and stated not in (DEFAULT, own) and not is_read(stated):
        raise UserError(
            f"config.data.tokenizer: {stated!r}, but {config.tune.base} reads {own!r}; leave "
            "config.data.tokenizer out"
        )
    config = ConfigDict(config.to_dict())
    config.model = base.name
    config.model_config = ConfigDict(base.fields)
    config.data.tokenizer = base.tokenizer or config.data.tokenizer
    config.tune.fingerprint = base.fingerprint
    return config


def tuned(model: nnx.Module, config: ConfigDict) -> nnx.Module:
    """Return the wrapper of a base that `config.tune` states, or the model itself without one.

    Raises:
      UserError: the model has nothing of the kind to learn.
    """
    tune = config.tune
    if not tune.kind:
        return model
    if traits_of(model).local_update is not None:
        raise UserError(
            f"config.tune.kind: {type(model).__name__} learns without gradients; train it on"
        )
    if tune.kind == "state":
        try:
            return learn_state(model)
        except UserError as error:
            raise UserError(f"config.tune.kind: {error}") from error
    try:
        return learn_additions(
            model, rank=tune.rank, alpha=tune.alpha, targets=tune.targets, seed=config.seed
        )
    except UserError as error:
        raise UserError(f"config.tune.{error}") from error


def with_weights(model: nnx.Module, base: Base | None) -> nnx.Module:
    """Return a wrapper with the arrays of its base, placed as those they replace."""
    if base is None:
        return model
    leaves = flatten(model)
    for name, x in flatten(base.model).items():
        place = leaves[f"base/{name}"].sharding
        leaves[f"base/{name}"] = jax.device_put(jax.device_get(x), place)
    return unflatten(model, leaves)


def base_tokenizer(config: ConfigDict):
    """Return the tokenizer in the folder of an experiment's base, None if there is none."""
    if not config.tune.kind:
        return None
    folder = user_path(config.tune.base)
    return read_tokenizer(folder) if has_tokenizer(folder) else None


def check_tokenizer(config: ConfigDict, tokenizer) -> None:
    """Raise UserError if the data are not read with the tokenizer of the base."""
    own = base_tokenizer(config)
    if own is not None and own.to_json() != tokenizer.to_json():
        raise UserError(
            f"config.data: its tokenizer {tokenizer.name!r} was fitted anew and is not that of "
            f"{config.tune.base}; only format 'text' can be read with a base's fitted tokenizer"
        )


def fingerprint_of(model: nnx.Module) -> str:
    """Return the SHA-256 of a model's arrays, and of the fields of its config that are no default.

    Fields of the experiment, and fields that later versions add, do not change it.
    """
    config, fields = model.config, {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in EXPERIMENT and value != field.default:
            fields[field.name] = value
    known = {"model": type(model).__name__, "config": fields}
    digest = hashlib.sha256(json.dumps(known, sort_keys=True, default=repr).encode())
    for name, leaf in sorted(flatten(model).items()):
        array = np.ascontiguousarray(jax.device_get(leaf))
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array)
    return digest.hexdigest()


def _is_run(folder: Path) -> bool:
    return is_dir(folder / "checkpoints", "config.tune.base=")


def _of_run(folder: Path, load_model) -> Base:
    trained = load_model(folder, "best")
    config = trained.config
    fields = config.model_config.to_dict()
    tokenizer = config.data.tokenizer
    if is_read(tokenizer):  # the run's copy: the file may have gone or changed
        tokenizer = str(folder.absolute())
    return Base(trained.model, config.model, fields, tokenizer, fingerprint_of(trained.model))


def _converted(folder: Path) -> Base:
    model = convert.load(folder)
    fields = jaxmodels.config_to_dict(model.config)
    name = fields.pop("model")
    fields = {name: value for name, value in fields.items() if name not in EXPERIMENT}
    tokenizer = str(folder.absolute()) if has_tokenizer(folder) else ""
    return Base(model, name, fields, tokenizer, fingerprint_of(model))


def _check_ordinary(model: nnx.Module, folder: Path) -> None:
    if isinstance(model, InitialState):
        raise UserError(f"{folder} has learned only an initial state; tune its base")
    if is_quantized(model):
        raise UserError(f"{folder} has int8 weights, to decode with; tune what they were made of")


def _known(config: ConfigDict) -> str:
    return f" (SHA-256 {config.tune.fingerprint[:12]})" if config.tune.fingerprint else ""
