"""The file of a sweep: `get_sweep()`, read and checked; docs/config.md, "Sweeps", describes it."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxmodels.cli import choose_from
from jaxmodels.errors import UserError
from jaxmodels.python_file import import_file, returned_by
from train.config import complete_config

EXAMPLE = "configs/groundthink/matrix.py"
GROUPS = {
    "tier1": "Tier 1: depth and the anchor",
    "tier2": "Tier 2: sizes, scales and layouts",
    "tier3": "Tier 3: against the baselines",
    "assumption": "Untested assumptions",
    "baseline": "Against other models",
    "rates": "Other learning rates",
    "variant": "Variants",
}
EVALUATIONS = 10  # evenly spaced over a shortened run

TEXT, NUMBER, TEXTS = (str,), (int, float), (list, tuple)
# Keys of each mapping -> (types of the value, words for them).
WORDS = {TEXT: "a text", NUMBER: "a number", TEXTS: "a list", (int,): "an integer"}
MAPPING, CONFIG, FLAG = (dict,), (dict, ConfigDict), (bool,)
WORDS |= {MAPPING: "a dict", CONFIG: "a ConfigDict", FLAG: "True or False"}
REQUIRED = {"config": CONFIG, "seeds": TEXTS, "entries": MAPPING}
OPTIONAL = {"steps": (int,), "questions": MAPPING, "measure": MAPPING, "answers": FLAG}
OPTIONAL |= {"compute": FLAG}
OPTIONAL |= {"claims": TEXTS, "claims_note": TEXT, "memory": MAPPING, "diagnosis": TEXTS}
ENTRY = {"group": TEXT, "says": TEXT, "changes": MAPPING, "match": TEXT}
ENTRY |= {"multiple": NUMBER, "config": CONFIG}
MEASURE = {"name": TEXT, "unit": TEXT, "best": NUMBER, "scale": NUMBER}
CLAIM = {"row": TEXT, "says": TEXT, "entry": TEXT, "value": TEXT, "aim": (*NUMBER, type(None))}
CLAIM |= {"below": FLAG, "scale": NUMBER, "form": TEXT}
WORDS[CLAIM["aim"]] = "a number or None"


def read_sweep(
    path: str | Path, preset: str = "", variants: Sequence[Sequence[str]] = ()
) -> dict[str, Any]:
    """Read a sweep from its file, or build one from a training config and variants.

    Args:
      path: file that defines `get_sweep` or, with variants, only `get_config`.
      preset: argument of `get_sweep`; "" = its default.
      variants: entries to add, each a name and "field=value" strings.

    Raises:
      UserError: no such file, function or preset, or an invalid mapping.
    """
    module = import_file(path, "--config=", "that defines get_sweep()")
    if hasattr(module, "get_sweep"):
        arguments = [preset] if preset else []
        if preset and not inspect.signature(module.get_sweep).parameters:
            raise UserError(f"--preset {preset}: {path} has no presets")
        spec = returned_by(path, "get_sweep", "--config", EXAMPLE, *arguments)
        _check_table(f"{path}: get_sweep()", spec, REQUIRED | OPTIONAL, REQUIRED)
        spec = dict(spec)
    elif hasattr(module, "get_config") and variants:
        config = complete_config(returned_by(path, "get_config", "--config", EXAMPLE), str(path))
        shorten(config, config.steps)
        spec = {"config": config, "seeds": (0,), "entries": {"as it is": {}}}
    else:
        raise UserError(
            f"--config={path}: does not define get_sweep(); see {EXAMPLE}; "
            "to vary a training config add --set NAME FIELD=VALUE"
        )
    for name, *fields in variants:
        pairs = [field.partition("=") for field in fields]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise UserError(
                f"--set {name}: expected --set NAME FIELD=VALUE, e.g. --set flat seq_len=32"
            )
        changes = {key: value for key, _, value in pairs}
        spec["entries"] = {**spec["entries"], name: {"changes": changes}}
    _check(path, spec)
    return spec


def _check(path: str | Path, spec: Mapping[str, Any]) -> None:
    """Raise UserError, naming the key, for what is not as docs/config.md says."""

    def check_names(words, what):
        for word in words:
            if word not in list(spec["entries"]):
                raise UserError(f"{path}: {what} {word!r}{choose_from(spec['entries'])}")

    whole = [type(x) is int and 0 <= x < 2**32 for x in spec["seeds"]]
    if not whole or not all(whole):
        raise UserError(f"{path}: 'seeds' must be integers from 0, got {spec['seeds']!r}")
    if not spec["entries"]:
        raise UserError(f"{path}: no entries; the first one is the baseline")
    for name, entry in spec["entries"].items():
        where = f"{path}: entry {name!r}"
        if not isinstance(name, str):
            raise UserError(f"{where}: its name must be a text")
        _check_table(where, entry, ENTRY)
        if (group := entry.get("group", "variant")) not in GROUPS:
            raise UserError(f"{where} has unknown group {group!r}{choose_from(GROUPS)}")
        if not entry.get("multiple", 1) > 0:
            raise UserError(f"{where}: 'multiple' must be positive, got {entry['multiple']!r}")
        if wrong := [key for key in entry.get("changes", {}) if not isinstance(key, str)]:
            raise UserError(f"{where}: 'changes' must name fields, got {wrong[0]!r}")
    if "measure" in spec:
        _check_table(f"{path}: 'measure'", spec["measure"], MEASURE, MEASURE)
    for name, question in spec.get("questions", {}).items():
        texts = [isinstance(x, str) for x in (name, *(question if _is_list(question) else ()))]
        if len(texts) != 4 or not all(texts):
            raise UserError(f"{path}: question {name!r} must be (entry, other entry, question)")
        check_names(question[:2], f"{name!r} refers to unknown entry")
    check_names(spec.get("diagnosis", ()), "'diagnosis' refers to unknown entry")
    for claim in spec.get("claims", ()):
        _check_table(f"{path}: a claim", claim, CLAIM, ("row", "says", "entry", "value"))
    for name, sizes in spec.get("memory", {}).items():
        if not _is_list(sizes) or len(sizes) != 3 or not all(_number(x) and x > 0 for x in sizes):
            raise UserError(f"{path}: memory of {name!r} must be (rows, tokens per row, GB)")


def _check_table(
    where: str, given: Any, table: Mapping[str, tuple[type, ...]], required: Sequence[str] = ()
) -> None:
    """Raise UserError unless `given` is a mapping of the keys and types of a table."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: expected a dict, got {given!r}")
    for key, value in given.items():
        if key not in table:
            raise UserError(f"{where} has unknown key {key!r}{choose_from(table)}")
        if not isinstance(value, table[key]) or (type(value) is bool and bool not in table[key]):
            raise UserError(f"{where}: {key!r} must be {WORDS[table[key]]}, got {value!r}")
    if missing := [key for key in required if key not in given]:
        raise UserError(f"{where}: the key {missing[0]!r} is missing")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shorten(config: ConfigDict, steps: int, *, keep_best: bool = False) -> None:
    """Set the steps of a run, and adapt its warm-up and its validation and checkpoint intervals."""
    config.steps = steps
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // 10)
    config.eval_every = max(1, steps // EVALUATIONS)
    config.log_every = min(config.log_every, config.eval_every)
    config.checkpoint_every = max(1, steps // 2)
    config.keep_last = 1
    if not keep_best:
        config.keep_best = 0
