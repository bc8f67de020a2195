"""A sweep: entries at equal tokens and, on request, equal parameters, each run with several seeds.

A sweep file defines `get_sweep()`, or `get_sweep(preset)`, which returns a mapping:

    config     the base, as `get_config()` returns it
    seeds      of every entry
    entries    name -> {"says": one line, "changes": {field: value}, "group": G, "match": field,
               "multiple": number, "config": a base of its own}, all of them optional
    steps      of every run; default: the base's
    questions  name -> (entry with, entry without, the question as text); default: every entry of
               as many tokens against the first one
    measure    {"name", "unit", "best", "scale"}: compared is scale * (best - the validation metric
               of that name); default: bits per character or byte
    answers    True: runs answer questions, which are asked of each once it is trained
    claims     published numbers to compare the runs with, see `eval/sweep/claims.py`
    claims_note  a sentence on what of them is not measured
    memory     preset -> (rows, tokens a row, GB of a card): training steps to compile, not to run
    diagnosis  (hybrid, first baseline, second baseline)

The first entry is the baseline. A field is one of the config ("optimizer.learning_rate") or of the
model ("num_layers" for "model_config.num_layers"). An entry that changes `model` starts from that
model's own fields. `match` names the number (a width or an expansion, in multiples of `multiple`)
that is chosen so that the entry has the baseline's number of parameters.
"""

import dataclasses
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eval.report.document import Mark, Table
from eval.sweep.claims import Claim
from eval.sweep.match import count, dotted, matched_value
from jaxmodels.errors import UserError
from jaxmodels.python_file import import_file, returned_by
from train import tasks
from train.config import apply_overrides, complete_config, model_defaults, validate_config
from train.model import resolve_vocab

EXAMPLE = "configs/groundthink/matrix.py"
GROUPS = {
    "tier1": "Tier 1: depth and the anchor",
    "tier2": "Tier 2: sizes, scales and layouts",
    "tier3": "Tier 3: against the baselines",
    "assumption": "Untested assumptions",
    "rates": "Other learning rates",
    "variant": "Variants",
}
TOLERANCE = 0.05  # of the baseline's parameters, for a matched entry
EVALUATIONS = 10  # of a shortened run, evenly spaced
REQUIRED = ("config", "seeds", "entries")
OPTIONAL = ("steps", "questions", "measure", "answers", "claims", "claims_note", "memory")
OPTIONAL += ("diagnosis",)
KEYS = ("group", "says", "changes", "match", "multiple", "config")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One variant, to be run with every seed.

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
        """Tokens that each run reads."""
        return self.config.steps * self.config.batch_size * self.config.seq_len

    def of_seed(self, seed: int) -> ConfigDict:
        """Return the config of one run."""
        config = ConfigDict(self.config.to_dict())
        config.seed = seed
        return config


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A planned sweep; the fields after `seeds` as in the file."""

    entries: dict[str, Entry]
    seeds: tuple[int, ...]
    questions: dict[str, tuple[str, str, str]]
    diagnosis: tuple[str, ...] = ()
    measure: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    answers: bool = False
    claims: tuple[Claim, ...] = ()
    claims_note: str = ""
    memory: Mapping[str, tuple[int, int, float]] = dataclasses.field(default_factory=dict)

    @property
    def baseline(self) -> Entry:
        """The entry that the others are compared with."""
        return next(iter(self.entries.values()))

    def difference(self, entry: Entry) -> float:
        """Return the parameters beyond the baseline's, as a fraction of those."""
        return entry.parameters / self.baseline.parameters - 1


def read_sweep(
    path: str | Path, preset: str = "", variants: Sequence[Sequence[str]] = ()
) -> dict[str, Any]:
    """Read a sweep from its file, or make one of a training config and variants of it.

    Args:
      path: of a file that defines `get_sweep` or, with variants, only `get_config`.
      preset: argument of `get_sweep`; "" = its default.
      variants: entries to add: a name and "field=value" words each.

    Raises:
      UserError: no such file, function or preset, or a part that is missing or wrong.
    """
    module = import_file(path, "--config=", "that defines get_sweep()")
    if hasattr(module, "get_sweep"):
        arguments = [preset] if preset else []
        if preset and not inspect.signature(module.get_sweep).parameters:
            raise UserError(f"--preset {preset}: {path} has no presets")
        given = dict(returned_by(path, "get_sweep", "--config", EXAMPLE, *arguments))
    elif hasattr(module, "get_config") and variants:
        config = complete_config(returned_by(path, "get_config", "--config", EXAMPLE), str(path))
        shorten(config, config.steps)
        given = {"config": config, "seeds": (0,), "entries": {"as it is": {}}}
    else:
        raise UserError(
            f"--config={path}: it defines no get_sweep(), see {EXAMPLE}; "
            "of a training config, --set NAME FIELD=VALUE makes a variant"
        )
    for name, *fields in variants:
        pairs = [field.partition("=") for field in fields]
        if not pairs or not all(equals for _, equals, _ in pairs):
            raise UserError(
                f"--set {name}: write --set NAME FIELD=VALUE, e.g. --set flat seq_len=32"
            )
        changes = {key: value for key, _, value in pairs}
        given["entries"] = {**given["entries"], name: {"changes": changes}}
    _check(path, given)
    return given


def _check(path: str | Path, given: Mapping[str, Any]) -> None:
    if missing := [part for part in REQUIRED if part not in given]:
        raise UserError(f"{path}: get_sweep() returns no {missing[0]!r}")
    known = (*REQUIRED, *OPTIONAL)
    if unknown := [part for part in given if part not in known]:
        raise UserError(f"{path}: get_sweep() returns {unknown[0]!r}; known: {', '.join(known)}")
    entries = given["entries"]
    if not entries:
        raise UserError(f"{path}: no entries; the first one is the baseline")
    for name, entry in entries.items():
        if unknown := [key for key in entry if key not in KEYS]:
            raise UserError(f"{path}: entry {name!r} has {unknown[0]!r}; known: {', '.join(KEYS)}")
        if entry.get("group", "variant") not in GROUPS:
            raise UserError(f"{path}: entry {name!r} needs a group of {', '.join(GROUPS)}")
    measure = given.get("measure")
    if measure is not None and set(measure) != {"name", "unit", "best", "scale"}:
        raise UserError(f"{path}: 'measure' needs name, unit, best and scale")
    questions = given.get("questions", {})
    asked = [(name, entry) for name, (*pair, _) in questions.items() for entry in pair]
    asked += [("diagnosis", entry) for entry in given.get("diagnosis", ())]
    for question, entry in asked:
        if entry not in entries:
            raise UserError(f"{path}: {question!r} is about {entry!r}, which is no entry")


def make_plan(
    given: Mapping[str, Any],
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (),
    steps: int | None = None,
) -> Sweep:
    """Complete every entry's config and count its parameters; only shapes are computed.

    Args:
      given: as `read_sweep` returns it.
      overrides: `--config.field=value`, applied to every entry.
      seeds: instead of the file's, unless empty.
      steps: of every run, instead of the file's; see `shorten`.

    Raises:
      UserError: a field or value that is refused, parameters that cannot be matched, questions
        between entries that read different numbers of tokens.
    """
    vocabularies: dict[str, int] = {}
    entries: dict[str, Entry] = {}
    for name, listed in given["entries"].items():
        changes = dict(listed.get("changes", {}))
        match = listed.get("match", "")

        def config_with(more, changes=changes, listed=listed):
            config = entry_config(given, listed, {**changes, **more}, overrides, steps)
            return _resolved(config, vocabularies)

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
        group, says = listed.get("group", "variant"), listed.get("says", "")
        entries[name] = Entry(name, group, says, changes, config, match, parameters)
    sweep = Sweep(
        entries,
        tuple(dict.fromkeys(seeds or given["seeds"])),
        dict(given["questions"]) if "questions" in given else _against_first(entries),
        tuple(given.get("diagnosis", ())),
        dict(given.get("measure", {})),
        bool(given.get("answers")),
        tuple(Claim(**claim) for claim in given.get("claims", ())),
        given.get("claims_note", ""),
        dict(given.get("memory", {})),
    )
    _refuse_unequal(sweep)
    return sweep


def _against_first(entries: Mapping[str, Entry]) -> dict[str, tuple[str, str, str]]:
    first, *others = entries.values()
    return {
        entry.name: (entry.name, first.name, f"Is “{entry.name}” better than “{first.name}”?")
        for entry in others
        if entry.tokens == first.tokens
    }


def _refuse_unequal(sweep: Sweep) -> None:
    for entry in sweep.entries.values():
        if entry.match and abs(sweep.difference(entry)) > TOLERANCE:
            raise UserError(
                f"entry {entry.name!r}: no {entry.match} brings it within {TOLERANCE:.0%} of the "
                f"baseline's {sweep.baseline.parameters:,} parameters (nearest: "
                f"{entry.changes[entry.match]} with {entry.parameters:,}); match another field"
            )
    for name, (one, other, _) in sweep.questions.items():
        tokens = [sweep.entries[entry].tokens for entry in (one, other)]
        if tokens[0] != tokens[1]:
            raise UserError(
                f"question {name!r}: {one!r} reads {tokens[0]:,} tokens and {other!r} "
                f"{tokens[1]:,}; compare entries of equal steps x batch_size x seq_len"
            )


def entry_config(
    given: Mapping[str, Any],
    listed: Mapping[str, Any],
    changes: Mapping[str, Any],
    overrides: Sequence[str] = (),
    steps: int | None = None,
) -> ConfigDict:
    """Return the base with an entry's changes, then the overrides of the command line.

    Raises:
      UserError: a field that does not exist or a value that it refuses.
    """
    config = complete_config(listed.get("config", given["config"]))
    if steps is not None:
        shorten(config, steps, keep_best=bool(given.get("answers")))
    elif "steps" in given:
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


def shorten(config: ConfigDict, steps: int, *, keep_best: bool = False) -> None:
    """Set the steps of a run, and with them its warm-up and how often it is validated and saved."""
    config.steps = steps
    # A warm-up as long as the run would be all there is.
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // 10)
    config.eval_every = max(1, steps // EVALUATIONS)
    config.log_every = min(config.log_every, config.eval_every)
    config.checkpoint_every = max(1, steps // 2)
    config.keep_last = 1
    if not keep_best:
        config.keep_best = 0


def _resolved(config: ConfigDict, vocabularies: dict[str, int]) -> ConfigDict:
    """Resolve the vocabulary size to that of the tokenizer; each corpus is read once."""
    key = json.dumps(config.data.to_dict(), sort_keys=True)
    if key not in vocabularies:
        corpus = tasks.of(config).load_corpus(config)
        vocabularies[key] = corpus.tokenizer.vocab_size
    return resolve_vocab(config, vocabularies[key])


def plan_table(sweep: Sweep) -> Table:
    """Return the plan, a row an entry; sizes far from the baseline's are marked."""
    rows = []
    for entry in sweep.entries.values():
        difference = sweep.difference(entry)
        size = f"{difference:+.1%}"
        changes = ", ".join(f"{name}={value}" for name, value in entry.changes.items())
        row = [entry.group, entry.name, f"{entry.parameters:,}"]
        row += [Mark(size, "warn") if abs(difference) > TOLERANCE else size]
        rows.append([*row, f"{entry.tokens:,}", changes])
    return Table(("group", "entry", "parameters", "", "tokens", "changes"), rows, left=(0, 1, 5))
