"""The table of all experiment fields, and the defaults and checks derived from it.

Lengths are in tokens, `batch_size` counts rows over all devices, `*_every` count steps.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.errors import UserError
from train.control.fields import GROUP as CONTROL
from train.devices.fields import GROUP as PARALLEL
from train.devices.fields import MESH
from train.fields import Field, Group, at_least, count, free, one_of
from train.optim.fields import GROUP as OPTIMIZER
from train.tasks.fields import GROUP as DATA
from train.tasks.lengths import lengths_of
from train.tuning.fields import GROUP as TUNE

DTYPES = ("float32", "bfloat16")


def _seed(value: int) -> str:
    if value >= 2**32:  # JAX would drop the higher bits
        return f"must be below 2^32 = {2**32}, got {value}"
    return at_least(0)(value)


def _steps(value: tuple) -> str:
    whole = all(isinstance(step, int) and not isinstance(step, bool) for step in value)
    return "" if whole and min(value, default=1) >= 1 else f"give steps from 1 on, got {value}"


def _check_sizes(config: ConfigDict) -> None:
    lengths_of(config)
    if (tokens := config.batch_size * config.seq_len) >= 2**31:
        raise UserError(
            f"config.batch_size: {config.batch_size} rows of seq_len {config.seq_len} are "
            f"{tokens:,} tokens; a batch must have fewer than 2^31"
        )


LOOP = Group(
    "",
    (
        Field("model", "", 'Name of a model ("system" or "system/preset"), or "module:factory".'),
        Field("model_config", {}, "Fields of the model's own config."),
        free("steps", 1000, "Number of updates.", count),
        Field("batch_size", 32, "Rows of a batch, over all devices.", count),
        Field("seq_len", 64, "Tokens of a row.", count),
        Field(
            "curriculum", (), "Sequence lengths by fraction of the run (train/tasks/lengths.py)."
        ),
        Field("init_from", "", "Run folder whose last weights initialize this run."),
        Field("seed", 0, "Seed of initialization, data order, splits and dropout.", _seed),
        Field("dtype", "float32", "Dtype of matmul inputs: float32 or bfloat16.", one_of(DTYPES)),
        free("eval_every", 100, "Steps between validations; 0 = never.", at_least(0)),
        free("checkpoint_every", 100, "Steps between checkpoints.", at_least(1)),
        free("log_every", 10, "Steps between logged steps.", at_least(1)),
        free("keep_last", 2, "Number of newest checkpoints to keep.", at_least(1)),
        free("keep_best", 1, "Number of best checkpoints to keep in addition.", at_least(0)),
        free("keep_steps", (), "Steps that are saved and kept, e.g. (100, 1000).", _steps),
    ),
    _check_sizes,
)
GROUPS = (LOOP, TUNE, PARALLEL, MESH, OPTIMIZER, DATA, CONTROL)
# by dotted name
FIELDS = {group.prefix + field.name: field for group in GROUPS for field in group.fields}
# Groups whose keys the user chooses; the code that reads them checks them.
OPEN_GROUPS = tuple(name for name, field in FIELDS.items() if isinstance(field.default, dict))


def default_config() -> ConfigDict:
    """Return a config with every field at its default; `model` is "", that of the base to tune."""
    config = ConfigDict()
    for group in GROUPS:
        node = config if not group.name else ConfigDict()
        for field in group.fields:
            node[field.name] = ConfigDict() if isinstance(field.default, dict) else field.default
        if group.name:
            config[group.name] = node
    return config


def model_defaults(model: str, *, stored: bool = False) -> dict[str, Any]:
    """Return the fields of a model's own config with their default or preset values.

    `dtype` and `seq_len` are omitted: they are fields of the experiment. Return {} for
    "module:factory" and ""; raise UserError for an unknown model. `complete_config` describes
    `stored`.
    """
    if ":" in model or not model:
        return {}
    jaxmodels.make_config(model)  # refuses an unknown name
    system, _, preset = model.partition("/")
    config_class, _, presets = jaxmodels.MODELS[system]
    defaults = {
        field.name: field.default_factory()
        if field.default is dataclasses.MISSING
        else field.default
        for field in dataclasses.fields(config_class)
    }
    defaults |= presets[preset] if preset else {}
    if "vocab_size" in defaults and not stored:
        defaults["vocab_size"] = 0
    return {name: value for name, value in defaults.items() if name not in ("dtype", "seq_len")}


def validate_config(config: ConfigDict) -> None:
    """Check values and joint constraints of a complete config; raise UserError if one fails."""
    for group in GROUPS:
        group.validate(config)


def may_change(name: str) -> bool:
    """Return whether a run may be resumed with another value of this (dotted) field."""
    group = next((g for g in OPEN_GROUPS if name.startswith(f"{g}.")), None)
    field = FIELDS.get(group or name)
    return field is not None and field.resume


def differences(old: ConfigDict, new: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Return dotted name -> (old, new) value of the fields that differ, None for an absent one."""
    before, after = flat_fields(old), flat_fields(new)
    pairs = {name: (before.get(name), after.get(name)) for name in sorted(before | after)}
    return {name: (one, other) for name, (one, other) in pairs.items() if one != other}


def flat_fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Return dotted name -> value of all fields; `prefix` stands before each name."""
    flat = {}
    for key, value in config.items():
        inner = isinstance(value, ConfigDict | dict)
        flat |= flat_fields(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return flat
