"""What a matrix is: entries at equal tokens and, where that is asked for, equal parameters.

A matrix file defines `get_matrix(preset)`, which returns a mapping:

    config     the base, a config as `get_config()` returns
    steps      of every run
    seeds      of every entry
    entries    name -> {"group": G, "says": one line, "changes": {field: value}, "match": field}
    questions  name -> (entry with, entry without, the question as text)
    diagnosis  (hybrid, first baseline, second baseline), optional
    measure    {"name", "unit", "best", "scale"}, optional: what is compared, scale * (best - the
               validation metric of that name); bits per character or byte if it is left out

The first entry is the baseline. A field is one of the config ("optimizer.learning_rate") or of the
model ("num_layers" for "model_config.num_layers"). An entry that changes `model` starts from that
model's own fields. `match` names the number (a width or an expansion, in multiples of `multiple`)
that is chosen so that the entry has the baseline's number of parameters.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eval.sweep.match import count, dotted, matched_value
from jaxmodels.errors import UserError
from train import tasks
from train.config import apply_overrides, complete_config, model_defaults, validate_config
from train.model import resolve_vocab

GROUPS = ("tier1", "tier2", "tier3", "assumption", "rates")
TOLERANCE = 0.05  # of the baseline's parameters, for a matched entry
PARTS = ("config", "steps", "seeds", "entries", "questions")
KEYS = ("group", "says", "changes", "match", "multiple")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One column of runs.

    Attributes:
      name, group, says: as in the file.
      changes: fields and values, the matched one included.
      config: complete, for any seed.
      match: the field that was solved for, or "".
      parameters: of the model.
    """

    name: str
    group: str
    says: str
    changes: dict[str, Any]
    config: ConfigDict
    match: str
    parameters: int

    @property
    def tokens(self) -> int:
        """That a run of it reads."""
        return self.config.steps * self.config.batch_size * self.config.seq_len

    def of_seed(self, seed: int) -> ConfigDict:
        """The config of one run."""
        config = ConfigDict(self.config.to_dict())
        config.seed = seed
        return config


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A planned matrix; `questions`, `diagnosis` and `measure` as in the file."""

    entries: dict[str, Entry]
    seeds: tuple[int, ...]
    questions: dict[str, tuple[str, str, str]]
    diagnosis: tuple[str, ...]
    measure: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def baseline(self) -> Entry:
        """What the others are held against."""
        return next(iter(self.entries.values()))

    def difference(self, entry: Entry) -> float:
        """Parameters beyond the baseline's, as a fraction of those."""
        return entry.parameters / self.baseline.parameters - 1


def read_matrix(path: str | Path, preset: str) -> dict[str, Any]:
    """What `get_matrix(preset)` of a file returns, its shape checked.

    Raises:
      UserError: no such file, function or preset, or a part that is missing or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--config={path}: no such file, e.g. configs/groundthink/matrix.py")
    spec = importlib.util.spec_from_file_location(f"matrix_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"--config={path}: not a Python file that defines get_matrix(preset)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UserError(f"--config={path}: line {error.lineno}: {error.msg}") from error
    if not callable(getattr(module, "get_matrix", None)):
        raise UserError(f"--config={path}: it defines no get_matrix(preset)")
    given = dict(module.get_matrix(preset))
    if missing := [part for part in PARTS if part not in given]:
        raise UserError(f"{path}: get_matrix() returns no {missing[0]!r}")
    entries, questions = given["entries"], given["questions"]
    if not entries:
        raise UserError(f"{path}: no entries; the first one is the baseline")
    for name, entry in entries.items():
        if unknown := [key for key in entry if key not in KEYS]:
            raise UserError(f"{path}: entry {name!r} has {unknown[0]!r}; known: {', '.join(KEYS)}")
        if entry.get("group") not in GROUPS:
            raise UserError(f"{path}: entry {name!r} needs a group of {', '.join(GROUPS)}")
    measure = given.get("measure")
    if measure is not None and set(measure) != {"name", "unit", "best", "scale"}:
        raise UserError(f"{path}: 'measure' needs name, unit, best and scale")
    asked = [(question, entry) for question, (*pair, _) in questions.items() for entry in pair]
    asked += [("diagnosis", entry) for entry in given.get("diagnosis", ())]
    for question, entry in asked:
        if entry not in entries:
            raise UserError(f"{path}: {question!r} is about {entry!r}, which is no entry")
    return given


def make_plan(
    given: Mapping[str, Any],
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Matrix:
    """Every entry's config and number of parameters; nothing is computed but shapes.

    Args:
      given: of `read_matrix`.
      overrides: `--config.field=value`, applied to every entry.
      seeds: instead of the file's, unless empty.
      say: told each entry as it is counted.

    Raises:
      UserError: a field or value that is refused, parameters that cannot be matched, questions
        between entries that read different numbers of tokens.
    """
    vocabularies: dict[str, int] = {}
    entries: dict[str, Entry] = {}
    for name, listed in given["entries"].items():
        changes = dict(listed.get("changes", {}))
        match = listed.get("match", "")

        def config_with(more, changes=changes):
            return _resolved(_config(given, {**changes, **more}, overrides), vocabularies)

        try:
            config = config_with({})
            if match and entries:
                target = next(iter(entries.values())).parameters
                value = matched_value(config_with, match, target, listed.get("multiple"))
                changes[match] = value
                config = config_with({match: value})
            parameters = count(config)
        except UserError as error:
            raise UserError(f"entry {name!r}: {error}") from error
        says = listed.get("says", "")
        entries[name] = Entry(name, listed["group"], says, changes, config, match, parameters)
        say(f"{name}: {parameters:,} parameters")
    seeds = tuple(dict.fromkeys(seeds or given["seeds"]))
    matrix = Matrix(
        entries,
        seeds,
        dict(given["questions"]),
        tuple(given.get("diagnosis", ())),
        dict(given.get("measure", {})),
    )
    _refuse_unequal(matrix)
    return matrix


def _refuse_unequal(matrix: Matrix) -> None:
    for entry in matrix.entries.values():
        if entry.match and abs(matrix.difference(entry)) > TOLERANCE:
            raise UserError(
                f"entry {entry.name!r}: no {entry.match} brings it within {TOLERANCE:.0%} of the "
                f"baseline's {matrix.baseline.parameters:,} parameters (nearest: "
                f"{entry.changes[entry.match]} with {entry.parameters:,}); match another field"
            )
    for name, (one, other, _) in matrix.questions.items():
        tokens = [matrix.entries[entry].tokens for entry in (one, other)]
        if tokens[0] != tokens[1]:
            raise UserError(
                f"question {name!r}: {one!r} reads {tokens[0]:,} tokens and {other!r} "
                f"{tokens[1]:,}; compare entries of equal steps x batch_size x seq_len"
            )


def _config(given: Mapping, changes: Mapping[str, Any], overrides: Sequence[str]) -> ConfigDict:
    """The base with an entry's changes, and what the command line says about all."""
    config = complete_config(given["config"])
    config.steps = int(given["steps"])
    changes = dict(changes)
    if "model" in changes:
        config.model = changes.pop("model")
        config.model_config = ConfigDict(model_defaults(config.model))
    for name, value in changes.items():
        text = repr(value) if isinstance(value, tuple | list) else str(value)
        apply_overrides(config, [f"--config.{dotted(config, name)}={text}"])
    apply_overrides(config, overrides)
    validate_config(config)
    return config


def _resolved(config: ConfigDict, vocabularies: dict[str, int]) -> ConfigDict:
    """Resolve the vocabulary size to that of the tokenizer; each corpus is read once."""
    key = json.dumps(config.data.to_dict(), sort_keys=True)
    if key not in vocabularies:
        corpus = tasks.of(config).load_corpus(config)
        vocabularies[key] = corpus.tokenizer.vocab_size
    return resolve_vocab(config, vocabularies[key])


def plan_table(matrix: Matrix):
    """The plan as a rich table."""
    from rich.table import Table

    title = f"{len(matrix.entries)} entries x {len(matrix.seeds)} seeds"
    table = Table(title=title, title_justify="left")
    for column in ("group", "entry", "parameters", "", "tokens", "changes"):
        table.add_column(
            column, justify="right" if column in ("parameters", "", "tokens") else "left"
        )
    for entry in matrix.entries.values():
        difference = matrix.difference(entry)
        style = "yellow" if abs(difference) > TOLERANCE else None
        changes = ", ".join(f"{name}={value}" for name, value in entry.changes.items())
        size = f"{entry.parameters:,}"
        row = (entry.group, entry.name, size, f"{difference:+.1%}", f"{entry.tokens:,}", changes)
        table.add_row(*row, style=style)
    return table
