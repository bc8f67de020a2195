"""What is fuzzed of configs: overrides on the command line, and files with a config or a sweep.

Whatever is accepted must be able to start: its model is made from shapes, its optimizer built.
"""

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from hypothesis import strategies as st
from ml_collections import ConfigDict

from eval.sweep import match, plan, spec
from jaxmodels.errors import UserError
from jaxmodels.paths import user_path
from tests.fuzz.inputs import damaged
from tests.fuzz.target import Target
from train import tasks
from train.config import (
    apply_overrides,
    complete_config,
    from_json,
    load_config,
    to_json,
    validate_config,
)
from train.config.schema import FIELDS, OPEN_GROUPS
from train.devices.placement import Placement
from train.model import resolve_vocab

MODELS = ["rwkv", "rwkv/4", "mamba/1", "transformer", "hrm", "trm", "hft", "rnk", "groundthink"]
SMALL = {"width": 8, "num_layers": 1, "version": 4, "vocab_size": 0}
BASE = {"model": "rwkv", "steps": 4, "batch_size": 8, "seq_len": 8, "model_config": SMALL}

# Texts of a value: of every type, at the edge of each range, of no type, of another alphabet.
TEXTS = ["", " ", "0", "-0", "1", "-1", "2", "3", "8", "16", "4294967295", "4294967296", "1e3"]
TEXTS += ["1.5", "-1.5", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 30, "9" * 5000, "0x10"]
TEXTS += ["1_000", "true", "FALSE", "None", "null", "()", "(1,)", "1,2,3", "a,b", ",", "[", "]["]
TEXTS += ["[1, 'a', None]", "((0.0, 8), (0.5, 16))", "[[0, 8, 0.5]]", "{'a': 1}", "{'a'", "..."]
TEXTS += [
    "(" * 300,
    "-" * 300 + "1",
    "[" * 90 + "]" * 90,
    "1+1",
    "1j",
    "b'x'",
    "'",
    '"',
    "\\",
    "\0",
]
TEXTS += [
    "\ud83d",
    "\n",
    "\r\n",
    "é",
    "三",
    "१",
    "٣",
    "~",
    "~/x",
    "$HOME",
    "*",
    "../..",
    "{}",
    "%s",
]
TEXTS += ["adamw", "muon", "cosine", "pmap", "shard_map", "bfloat16", "float64", "text", "pairs"]
TEXTS += [*MODELS, "rwkv/", "/", "a:b", ":", "tests.train.toy:nothing", "x" * 400]
NAMES = [*FIELDS, *(f"{group}.x" for group in OPEN_GROUPS), *(f"model_config.{x}" for x in SMALL)]
NAMES += ["model_config.mlp_size", "optimizer.groups.model", "optimizer.freeze.matrix", "data"]
NAMES += [
    "data.mixture.a.paths",
    "",
    ".",
    "..",
    "model.x",
    "steps.x",
    "optimiser.b1",
    "keys",
    "get",
]
NAMES += ["_fields", "__class__", "items", "data.items", "lock", "to_dict", "data.lock", "x" * 300]


# Values of Python that a config file may return, deep and shallow.
LEAVES = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=6)
LEAVES |= st.sampled_from([2**32, 2**63, 10**30, -(2**63), "byte", "answer_char", b"x", 1j])
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 2), inner, max_size=3)
    ),
    max_leaves=6,
)
# By the type of a field's default, values that are right or nearly so.
FITTING = {
    bool: st.sampled_from(["true", "false", "0", "1"]),
    int: st.integers(0, 17).map(str),
    float: st.sampled_from(["0", "0.5", "1", "1e-3", "2.5", "nan"]),
    str: st.sampled_from([*MODELS, "", "text", "pairs", "byte", "char", "lion", "wsd", "windows"]),
    tuple: st.sampled_from(["", "a,b", "('a',)", "(1, 2)", "((0.0, 4), (0.5, 8))", "0.5,1.0"]),
    dict: st.sampled_from(["1", "0.5", "-1", "{}"]),
}
TEXT_VALUES = st.one_of(
    st.sampled_from(TEXTS), st.sampled_from(TEXTS), VALUES.map(repr), st.text(max_size=8)
)
MISSPELT = st.tuples(
    st.sampled_from(NAMES), st.integers(0, 30), st.text(max_size=2), st.integers(0, 1)
).map(lambda drawn: _misspelt(*drawn))
ANY_NAME = st.sampled_from(NAMES) | st.sampled_from(NAMES) | st.sampled_from([*FIELDS]) | MISSPELT
KINDS = ["--config.{}={}"] * 8 + ["--config.{} {}", "--config.{}", "--{}={}", "{1}"]


def _misspelt(name: str, at: int, put: str, drop: int) -> str:
    """A name with symbols more, less or other."""
    return name[:at] + put + name[at + drop :]


def _fitting(name: str) -> st.SearchStrategy[tuple[str, str]]:
    default = FIELDS[name].default if name in FIELDS else 1
    return st.tuples(st.just(name), FITTING[type(default)])


PAIRS = st.sampled_from([*FIELDS, *(f"model_config.{x}" for x in SMALL)]).flatmap(_fitting)
PAIRS |= st.tuples(ANY_NAME, TEXT_VALUES)
OVERRIDE = st.tuples(st.sampled_from(KINDS), PAIRS).map(
    lambda drawn: drawn[0].format(*drawn[1]).split(" ", 1)
)
OVERRIDES = st.lists(OVERRIDE, min_size=1, max_size=3).map(lambda parts: [*itertools.chain(*parts)])


@functools.cache
def _base() -> ConfigDict:
    return complete_config(BASE)


def start(config: ConfigDict) -> None:
    """Do what a run does with a config before it reads data and compiles."""
    validate_config(config)
    again = from_json(to_json(config))
    assert to_json(again) == to_json(config)
    for path in config.data.paths:
        user_path(path)
    _check_size(config)
    _placed(to_json(config))


def _check_size(config: ConfigDict) -> None:
    """Leave out models of gigabytes, valid wishes that take a while to be built from shapes."""
    sizes = [x for x in config.model_config.values() if isinstance(x, int | float)]
    if max([1, *sizes]) > 512 or max(config.batch_size, config.seq_len) > 2**16:
        raise UserError("larger than what is tried here")


@functools.lru_cache(64)
def _placed(text: str) -> None:
    config = from_json(text)
    Placement(resolve_vocab(config, 256), jax.devices()[:1]).template()


def _overridden(folder: Path, overrides: list[str]) -> None:
    config = ConfigDict(_base().to_dict())
    apply_overrides(config, overrides)
    start(config)


def _set(fields: dict[str, Any], changes: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return nested fields with some set by their dotted name."""
    fields = json.loads(json.dumps(fields))
    for name, value in changes:
        *groups, last = name.split(".")
        node = fields
        for group in groups:
            inner = node.get(group)
            node[group] = node = inner if isinstance(inner, dict) else {}
        node[last] = value
    return fields


CHANGES = st.lists(st.tuples(ANY_NAME, VALUES), max_size=3)
CODES = [
    "return None",
    "raise SystemExit",
    "raise KeyError('x')",
    "return 1/0",
    "yield 1",
    "return",
]
CODES += ["class X(str): pass\n    return {'model': X('rwkv')}", "return ConfigDict", "return [1]"]
CODES += ["c = ConfigDict(%s)\n    c.lock()\n    return c", "return FrozenConfigDict(%s)"]
CODES += ["from ml_collections import config_dict as d\n    return ConfigDict({'model': 'rwkv', "]
CODES[-1] += "'steps': d.placeholder(int), 'data': {'paths': d.FieldReference('a')}})"


def _file_of(function: str, fields: Any) -> str:
    """The text of a Python file whose function returns the fields."""
    if isinstance(fields, str):
        body = fields.replace("%s", repr(BASE))
    else:
        body = f"return {fields!r}"
    head = "from ml_collections import ConfigDict, FrozenConfigDict\nnan = float('nan')\n"
    return head + f"inf = float('inf')\n\n\ndef {function}(preset=''):\n    {body}\n"


def _config_file(folder: Path, given: tuple[bytes, list[str]]) -> None:
    path = folder / "c.py"
    path.write_bytes(given[0])
    start(load_config(path, given[1]))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _config_files() -> st.SearchStrategy:
    made = CHANGES.map(lambda changes: _file_of("get_config", _set(BASE, changes)))
    odd = (VALUES | st.sampled_from(CODES)).map(lambda code: _file_of("get_config", code))
    sample = _encoded(_file_of("get_config", BASE))
    named = st.one_of(*[made] * 4, odd).map(_encoded) | damaged([sample])
    return st.tuples(named, st.just([]) | OVERRIDES)


SWEEP = {
    "config": BASE,
    "seeds": (0, 1),
    "steps": 4,
    "entries": {
        "one": {"group": "baseline", "says": "first"},
        "two": {"changes": {"seed": 1}, "match": "channel_size", "multiple": 1},
    },
    "questions": {"Q": ("two", "one", "Is it?")},
    "measure": {"name": "loss", "unit": "nats", "best": 0.0, "scale": 1.0},
    "claims": ({"row": "G-1", "says": "x", "entry": "one", "value": "scores.exact"},),
}
SWEEP_NAMES = [*spec.REQUIRED, *spec.OPTIONAL, "entries.one", "entries.two", "entries.three"]
SWEEP_NAMES += [f"entries.two.{key}" for key in spec.ENTRY] + ["entries.two.changes.model", "seed"]
SWEEP_NAMES += ["entries.two.changes.optimizer.b1", "questions.Q", "config.model", "config.steps"]
SWEEP_NAMES += ["measure.name", "measure.scale", "claims.x", "memory.rwkv", "preset", "config.data"]
NAMED = ["one", "two", "", "width", "depth", "num_layers", "seq_len", "model", "rwkv/4", "baseline"]


def _sweep_file(folder: Path, given: tuple[bytes, str, list[list[str]]]) -> None:
    path = folder / "s.py"
    path.write_bytes(given[0])
    with (
        mock.patch.object(plan, "count", _count),
        mock.patch.object(match, "count", _count),
        mock.patch.object(tasks, "load_corpus", _corpus),
    ):
        sweep = plan.make_plan(spec.read_sweep(path, given[1], given[2]))
    plan.plan_table(sweep)
    for entry in sweep.entries.values():
        entry.of_seed(sweep.seeds[0])


def _count(config: ConfigDict, of=match.count) -> int:
    """Count the parameters of each small model once."""
    key = json.dumps([config.model, config.seq_len, config.model_config.to_dict()])
    return _known(_counts, key, lambda: (_check_size(config), of(config))[1])


def _corpus(config: ConfigDict, of=tasks.load_corpus) -> Any:
    return _known(_corpora, json.dumps(config.data.to_dict()), lambda: of(config))


_counts: dict[str, int] = {}
_corpora: dict[str, Any] = {}


def _known(known: dict[str, Any], key: str, make: Callable[[], Any]) -> Any:
    if key not in known:
        if len(known) > 64:
            known.clear()
        known[key] = make()
    return known[key]


def _sweep_files() -> st.SearchStrategy:
    values = VALUES | st.sampled_from(NAMED) | st.lists(st.sampled_from(NAMED), max_size=4)
    changes = st.lists(st.tuples(st.sampled_from(SWEEP_NAMES), values), max_size=3)
    made = changes.map(lambda some: _file_of("get_sweep", _set(SWEEP, some)))
    odd = (VALUES | st.sampled_from(CODES)).map(lambda code: _file_of("get_sweep", code))
    sample = [_encoded(_file_of(name, SWEEP)) for name in ("get_sweep", "get_config")]
    named = st.one_of(*[made] * 4, odd).map(_encoded) | damaged(sample)
    pair = st.builds("{}={}".format, st.sampled_from(NAMED) | ANY_NAME, TEXT_VALUES)
    variants = st.lists(st.lists(st.sampled_from(NAMED) | pair, min_size=1, max_size=3), max_size=1)
    return st.tuples(named, st.sampled_from(["", "", "cpu"]), variants)


TARGETS = {
    "overrides": lambda: Target(_overridden, OVERRIDES),
    "config file": lambda: Target(_config_file, _config_files()),
    "sweep file": lambda: Target(_sweep_file, _sweep_files()),
}
