"""Experiment configs: a Python file, overrides from the command line, JSON in the run's folder.

A config file defines `get_config()` and returns a `ConfigDict`. Fields that it leaves out take the
defaults below, so that a file states what matters and `config.json` states everything. Whatever is
wrong with a config is said in one line that names the field (`UserError`).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.data.readers.formats import FORMATS
from jaxmodels.data.text.mixture import IDENTITY_PHASES
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS as ANSWER_TOKENIZERS
from jaxmodels.errors import UserError
from train.config.file import get_config_of
from train.control.decide import Settings
from train.tasks.lengths import lengths_of

OPTIMIZERS = ("adamw", "adam_atan2", "lion", "muon")
SCHEDULES = ("constant", "cosine", "linear", "wsd")
DTYPES = ("float32", "bfloat16")
PARALLEL = ("pmap", "shard_map")
PAIR_FORMATS = (
    "pairs",
    "task",
    "puzzle",
    "built",
)  # of questions with answers, see train/tasks/answers.py
TEXT_TOKENIZERS = ("byte", "char", "word")
PAIR_TOKENIZERS = (*ANSWER_TOKENIZERS, "grid")
TOKENIZERS = TEXT_TOKENIZERS + PAIR_TOKENIZERS
MODES = ("tracks", "windows", "packed")
LABELS = ("none", "relations")
# Groups whose fields are the user's own; those who read them check them.
OPEN_GROUPS = ("model_config", "optimizer.groups", "optimizer.group_clip", "optimizer.freeze")
OPEN_GROUPS += ("data.mixture",)
VALID_FROM = ("split", "tail_of_tracks")


def default_config() -> ConfigDict:
    """Every field of an experiment but `model`, with its default.

    Lengths are in tokens, `batch_size` counts rows over all devices, `*_every` count steps.
    """
    return ConfigDict(
        {
            "model": "",
            "model_config": {},
            "steps": 1000,
            "batch_size": 32,
            "seq_len": 64,
            "curriculum": (),  # of lengths, see train/tasks/lengths.py
            "init_from": "",  # folder of a run whose last weights this one begins with
            "seed": 0,
            "dtype": "float32",
            "eval_every": 100,
            "checkpoint_every": 100,
            "log_every": 10,
            "keep_last": 2,
            "keep_best": 1,
            "parallel": "pmap",
            "mesh": {"fsdp": 1, "tensor": 1},  # further axes of the mesh, for "shard_map"
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-3,
                "schedule": "cosine",
                "warmup_steps": 0,
                "final_fraction": 0.0,  # of learning_rate, at the last step
                "decay_fraction": 0.2,  # of the steps, for "wsd"
                "weight_decay": 0.0,
                "b1": 0.9,
                "b2": 0.99,
                "eps": 1e-8,
                "clip_norm": 1.0,  # 0 = off
                "accumulate": 1,
                "ema_decay": 0.0,  # 0 = off
                "sign_rate": 1e-2,  # peak for what learns by signs, the vectors of puzzles
                "sign_decay": 0.1,  # of those
                "groups": {},  # this and the next two: see train/optim/param_groups.py
                "group_clip": {},
                "freeze": {},
            },
            "data": {
                "paths": (),  # () = the packaged corpus
                "format": "text",  # how files become documents
                "valid_fraction": 0.05,
                "test_fraction": 0.05,
                "valid_from": "split",  # "tail_of_tracks": the last valid_fraction of each row's
                "mixture": {},  # of sources by phase, see train/tasks/text.py
                "mixture_ends": IDENTITY_PHASES,  # share of the steps at which each phase ends
                "tokenizer": "byte",
                "max_tokens": 4096,  # vocabulary of the word tokenizer
                "min_freq": 1,
                "mode": "tracks",
                "piece_tokens": 0,  # cut training documents in pieces of so many; 0 = whole
                "carry_state": True,  # from segment to segment
                "labels": "none",  # "relations": derived from the text, of the sizes below
                "label_slots": 16,
                "label_roles": 4,
                "label_classes": 256,
                "tasks": (),  # of formats "task", "puzzle", "built": see train/tasks/answers.py
                "examples": 2000,  # of each task or puzzle, over all splits
                "question_prefix": "",  # in front of each question of format "pairs"
                "skip_long": False,  # leave out pairs that do not fit in seq_len
                "augment": False,  # change each puzzle anew, every time it comes
                "eval_tokens": 65536,  # of the validation split, at each evaluation; 0 = all
                "prefetch": 2,
            },
            "control": dataclasses.asdict(Settings()),  # see there
        }
    )


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigDict:
    """Read `get_config()` from a Python file and apply `--config.a.b=value` overrides.

    Raises:
      UserError: missing file, no `get_config`, unknown key, wrong type, or an invalid value.
    """
    config = get_config_of(Path(path))
    if not isinstance(config, ConfigDict | dict):
        raise UserError(f"--config={path}: get_config() must return a ConfigDict, got {config!r}")
    config = complete_config(config, source=str(path))
    apply_overrides(config, overrides)
    validate_config(config)
    return config


def complete_config(
    config: ConfigDict | dict[str, Any], source: str = "config", *, stored: bool = False
) -> ConfigDict:
    """Fill in all defaults, those of the model's own config included.

    Args:
      config: the fields that are given.
      source: file named in error messages.
      stored: the config is one that a run has written. A vocabulary size that it does not list was
        the model's default; elsewhere it is 0, resolved to that of the tokenizer.

    Raises:
      UserError: an unknown field, model or preset, or a field of the wrong type.
    """
    full = default_config()
    given = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    _merge(full, given, prefix="", source=source)
    if not full.model:
        raise UserError(f"{source}: the field 'model' is missing, e.g. model='prernk'")
    for name, value in model_defaults(full.model, stored=stored).items():
        if name not in full.model_config:
            full.model_config[name] = value
    return full


def model_defaults(model: str, *, stored: bool = False) -> dict[str, Any]:
    """Fields of a model's own config with their defaults, or its preset's values.

    `dtype` and `seq_len` are left out, because they are fields of the experiment; so is everything
    of a model that is given by import path, whose fields are not known.

    Raises:
      UserError: unknown model or preset.
    """
    if ":" in model:
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


def _change_model(config: ConfigDict, model: str) -> None:
    """Set another model; what the config stated beyond the old model's defaults stays."""
    old = model_defaults(config.model)
    stated = {
        name: value
        for name, value in config.model_config.to_dict().items()
        if name not in old or value != old[name]
    }
    config.model = model
    config.model_config = ConfigDict(model_defaults(model) | stated)


def _merge(into: ConfigDict, given: dict[str, Any], prefix: str, source: str) -> None:
    for key, value in given.items():
        name = prefix + key
        if name in OPEN_GROUPS and isinstance(value, dict):
            into[key] = ConfigDict(dict(value))
            continue
        if key not in into:
            raise UserError(f"{source}: unknown field {name!r}{_nearest(name, into, prefix)}")
        current = into[key]
        if isinstance(current, ConfigDict):
            if not isinstance(value, dict):
                raise UserError(f"{source}: {name} must be a group of fields, got {value!r}")
            _merge(current, value, name + ".", source)
        else:
            into[key] = _checked(name, value, current)


def apply_overrides(config: ConfigDict, overrides: Sequence[str]) -> None:
    """Apply `--config.a.b=value` (or `--config.a.b value`) in place, each of the field's own type.

    `--config.model` is applied first, and brings the defaults of that model.

    Raises:
      UserError: not an override, an unknown key (with the nearest valid name), or a wrong type.
    """
    for key, text in sorted(_pairs(overrides), key=lambda pair: pair[0] != "model"):
        *groups, last = key.split(".")
        node = config
        for depth, group in enumerate(groups):
            if group not in node or not isinstance(node[group], ConfigDict):
                name = ".".join(groups[: depth + 1])
                raise UserError(f"--config.{key}: unknown group {name!r}{_nearest(key, config)}")
            node = node[group]
        if ".".join(groups) in OPEN_GROUPS[1:] and last:
            node[last] = _literal(text)
            continue
        if last not in node:
            raise UserError(f"--config.{key}: unknown field{_nearest(key, config)}")
        if isinstance(node[last], ConfigDict):
            raise UserError(
                f"--config.{key} is a group; set one of its fields: {', '.join(node[last])}"
            )
        value = _parse(key, text, node[last])
        if key == "model":
            _change_model(config, value)
        else:
            node[last] = value


def _pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """(dotted field, text) of each override."""
    pairs, rest = [], list(overrides)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--config."):
            raise UserError(
                f"unknown argument {argument!r}; config fields are set by --config.field=value"
            )
        key, equals, text = argument.removeprefix("--config.").partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--config.{key}: a value is missing, write --config.{key}=value")
            text = rest.pop(0)
        pairs.append((key, text))
    return pairs


def field_names(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted names of all fields."""
    names = []
    for key in config:
        value = config[key]
        is_group = isinstance(value, ConfigDict)
        names += field_names(value, f"{prefix}{key}.") if is_group else [prefix + key]
    return names


def _nearest(name: str, config: ConfigDict, prefix: str = "") -> str:
    names = field_names(config, prefix)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not near:  # right field, wrong group
        last = name.rsplit(".", 1)[-1]
        tails = difflib.get_close_matches(last, [n.rsplit(".", 1)[-1] for n in names], n=1)
        near = [n for n in names if tails and n.rsplit(".", 1)[-1] == tails[0]]
    return f"; did you mean {near[0]!r}?" if near else f"; valid: {', '.join(config)}"


def _parse(key: str, text: str, current: Any) -> Any:
    """`text` as a value of the type of `current`."""
    value: Any = text
    if isinstance(current, bool):
        value = {"true": True, "false": False, "1": True, "0": False}.get(text.lower(), text)
    elif isinstance(current, int | float):
        for kind in (int, float):
            try:
                value = kind(text)
                break
            except ValueError:
                continue
    elif isinstance(current, tuple | list):
        value = _literal(text)
        if isinstance(value, str):
            value = tuple(_literal(part.strip()) for part in text.split(",") if part.strip())
        elif not isinstance(value, tuple | list):
            value = (value,)
    elif current is None:
        value = _literal(text)
    return _checked(key, value, current)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _checked(name: str, value: Any, current: Any) -> Any:
    """`value` if its type is that of `current` (an int may stand for a float), else `UserError`."""
    if current is None or (
        value is None and not isinstance(current, bool | int | float | str | tuple)
    ):
        return value
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(current, tuple | list) and isinstance(value, tuple | list):
        value = tuple(value)
        kinds = {type(item) for item in current}
        if len(kinds) == 1 and (wrong := [v for v in value if not isinstance(v, *kinds)]):
            raise _wrong_type(name, next(iter(kinds)), wrong[0])
        return value
    if type(value) is not type(current):
        raise _wrong_type(name, type(current), value)
    return value


def _wrong_type(name: str, expected: type, got: Any) -> UserError:
    words = {bool: "a bool (true or false)", int: "an integer", float: "a number", str: "a string"}
    words |= {tuple: "a list such as 1,2,3"}
    expected_words = words.get(expected, expected.__name__)
    return UserError(
        f"config.{name}: expected {expected_words}, got {got!r} ({type(got).__name__})"
    )


def validate_config(config: ConfigDict, device_count: int | None = None) -> None:
    """Check values against one another.

    Args:
      config: complete config.
      device_count: over all processes; None leaves out the check of `batch_size` against it.

    Raises:
      UserError: one line naming the field and the fix.
    """
    optimizer, data = config.optimizer, config.data
    for name in ("steps", "batch_size", "seq_len", "checkpoint_every", "log_every", "keep_last"):
        if config[name] < 1:
            raise UserError(f"config.{name}: must be at least 1, got {config[name]}")
    for name in ("eval_every", "keep_best", "seed"):
        if config[name] < 0:
            raise UserError(f"config.{name}: must not be negative, got {config[name]}")
    if config.seed >= 2**32:  # of more bits JAX would use the last 32
        raise UserError(f"config.seed: must be below 2^32 = {2**32}, got {config.seed}")
    if config.mesh.fsdp < 1 or config.mesh.tensor < 1:
        raise UserError(f"config.mesh: sizes must be at least 1, got {config.mesh.to_dict()}")
    _one_of("dtype", config.dtype, DTYPES)
    _one_of("parallel", config.parallel, PARALLEL)
    _one_of("optimizer.name", optimizer.name, OPTIMIZERS)
    _one_of("optimizer.schedule", optimizer.schedule, SCHEDULES)
    _one_of("data.tokenizer", data.tokenizer, TOKENIZERS)
    _one_of("data.format", data.format, (*FORMATS, *PAIR_FORMATS))
    _one_of("data.mode", data.mode, MODES)
    _one_of("data.labels", data.labels, LABELS)
    _one_of("data.valid_from", data.valid_from, VALID_FROM)
    if not (math.isfinite(optimizer.learning_rate) and optimizer.learning_rate >= 0):
        raise UserError(
            f"config.optimizer.learning_rate: must be >= 0, got {optimizer.learning_rate}"
        )
    for name in ("b1", "b2", "ema_decay"):
        if not 0 <= optimizer[name] < 1:
            raise UserError(f"config.optimizer.{name}: must lie in [0, 1), got {optimizer[name]}")
    for name in ("weight_decay", "clip_norm", "eps", "warmup_steps", "sign_rate", "sign_decay"):
        if not optimizer[name] >= 0:
            raise UserError(f"config.optimizer.{name}: must not be negative, got {optimizer[name]}")
    for name in ("final_fraction", "decay_fraction"):
        if not 0 <= optimizer[name] <= 1:
            raise UserError(f"config.optimizer.{name}: must lie in [0, 1], got {optimizer[name]}")
    if optimizer.warmup_steps >= config.steps:
        raise UserError(
            f"config.optimizer.warmup_steps: {optimizer.warmup_steps} steps of warm-up do not fit "
            f"in {config.steps} steps; lower it or raise --config.steps"
        )
    if optimizer.accumulate < 1:
        raise UserError(
            f"config.optimizer.accumulate: must be at least 1, got {optimizer.accumulate}"
        )
    if data.piece_tokens < 0 or data.piece_tokens == 1:
        raise UserError(f"config.data.piece_tokens: 0 (whole) or >= 2, got {data.piece_tokens}")
    if data.eval_tokens < 0 or data.prefetch < 0 or data.max_tokens < 3:
        raise UserError("config.data: eval_tokens and prefetch must be >= 0, max_tokens >= 3")
    lengths_of(config)
    Settings(**config.control.to_dict())
    if config.control.enabled and not config.eval_every:
        raise UserError("config.control.enabled: the controller needs validation, set eval_every")
    if device_count is not None and config.batch_size % (device_count * optimizer.accumulate):
        raise UserError(
            f"config.batch_size: {config.batch_size} rows do not divide over {device_count} "
            f"devices x accumulate {optimizer.accumulate}; make it a multiple of "
            f"{device_count * optimizer.accumulate}"
        )


def reads_pairs(config: ConfigDict) -> bool:
    """Whether an experiment is about questions with answers."""
    return config.data.format in PAIR_FORMATS


def _one_of(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        near = difflib.get_close_matches(value, valid, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"config.{name}: unknown value {value!r}; {hint}valid: {', '.join(valid)}")


def to_json(config: ConfigDict) -> str:
    """The config as JSON text, keys sorted."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def read_config(path: str | Path) -> ConfigDict:
    """The config in a run's config.json. Raises UserError for a file that holds none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a run's config ({error})") from error
    return from_json(text, source=str(path))


def from_json(text: str, source: str = "config.json") -> ConfigDict:
    """The config that `to_json` wrote. Raises UserError for text that is none."""
    try:
        given = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source}: not a run's config ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f"{source}: not a run's config, expected a JSON object")
    return complete_config(with_tuples(given), source=source, stored=True)


def with_tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(with_tuples(item) for item in value) if isinstance(value, list) else value


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Dotted names of the fields whose values differ."""
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
    return [key for key in sorted(before | after) if before.get(key) != after.get(key)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
