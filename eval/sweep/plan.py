"""Plan of a sweep: entries with equal tokens and optionally equal parameters, for several seeds.

An entry that changes `model` starts from the defaults of that model. `spec.py` reads the file.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from eval.report.document import Mark, Table
from eval.sweep.claims import Claim
from eval.sweep.compute import step_flops
from eval.sweep.match import count, dotted, matched_value
from eval.sweep.spec import shorten
from jaxmodels.errors import UserError
from train import tasks
from train.config import apply_overrides, complete_config, model_defaults, validate_config
from train.io.checkpoint import load_model
from train.model import resolve_vocab
from train.tasks.fields import ANSWER_FORMATS, CHAT_FORMAT, SYNTHETIC_FORMAT
from train.tuning.base import Base, open_base, with_base_of

TOLERANCE = 0.05  # of a matched entry, relative to the baseline's parameters


@dataclasses.dataclass(frozen=True)
class Entry:
    """One variant, to be run with every seed.

    Attributes:
      name, group, says: as in the file.
      changes: fields and values, including the matched one.
      config: complete config, independent of the seed.
      match: the matched field, or "".
      parameters: number of parameters of the model.
      flops: operations of a training step, if the sweep counts them, else 0.
    """

    name: str
    group: str
    says: str
    changes: dict[str, Any]
    config: ConfigDict
    match: str
    parameters: int
    flops: float = 0.0

    @property
    def tokens(self) -> int:
        """Number of tokens that each run reads."""
        return self.config.steps * self.config.batch_size * self.config.seq_len

    def of_seed(self, seed: int) -> ConfigDict:
        """Return the config of one run."""
        config = ConfigDict(self.config.to_dict())
        config.seed = seed
        return config


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A planned sweep; for the fields see docs/config.md."""

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
        """The first entry."""
        return next(iter(self.entries.values()))

    def difference(self, entry: Entry) -> float:
        """Return the relative difference of the number of parameters from the baseline's."""
        return entry.parameters / self.baseline.parameters - 1


def make_plan(
    spec: Mapping[str, Any],
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (),
    steps: int | None = None,
) -> Sweep:
    """Complete every entry's config and count its parameters, from shapes only.

    Args:
      spec: result of `read_sweep`.
      overrides: `--config.field=value`, applied to every entry.
      seeds: override of the file's seeds, unless empty.
      steps: override of the steps of every run; see `shorten`.

    Raises:
      UserError: an invalid field or value, parameters that cannot be matched, or a question
        between entries that read different numbers of tokens.
    """
    vocabularies: dict[str, int] = {}
    bases: dict[str, Base | None] = {}
    entries: dict[str, Entry] = {}
    for name, listed in spec["entries"].items():
        changes = dict(listed.get("changes", {}))
        match = listed.get("match", "")

        def config_with(more, changes=changes, listed=listed):
            config = entry_config(spec, listed, {**changes, **more}, overrides, steps)
            return _with_vocab(_with_base(config, bases), vocabularies)

        try:
            config = config_with({})
            if match and entries:
                target = next(iter(entries.values())).parameters
                value = matched_value(config_with, match, target, listed.get("multiple"))
                changes[match] = value
                config = config_with({match: value})
            parameters = count(config)
            flops = step_flops(config) if spec.get("compute") else 0.0
            if spec.get("answers") and config.data.format not in (
                *ANSWER_FORMATS,
                CHAT_FORMAT,
            ):
                raise UserError("'answers' needs questions or conversations, see data.format")
        except UserError as error:
            raise UserError(f"entry {name!r}: {error}") from error
        group, says = listed.get("group", "variant"), listed.get("says", "")
        entries[name] = Entry(name, group, says, changes, config, match, parameters, flops)
    first, *others = entries.values()
    default = {
        entry.name: (entry.name, first.name, f"Is “{entry.name}” better than “{first.name}”?")
        for entry in others
        if entry.tokens == first.tokens
    }
    copied = ("diagnosis", "measure", "answers", "claims_note", "memory")
    sweep = Sweep(
        entries,
        tuple(dict.fromkeys(seeds or spec["seeds"])),
        spec.get("questions", default),
        claims=tuple(Claim(**claim) for claim in spec.get("claims", ())),
        **{key: spec[key] for key in copied if key in spec},
    )
    _check_equal(sweep)
    return sweep


def _check_equal(sweep: Sweep) -> None:
    for entry in sweep.entries.values():
        if entry.match and abs(sweep.difference(entry)) > TOLERANCE:
            raise UserError(
                f"entry {entry.name!r}: no {entry.match} brings it within {TOLERANCE:.0%} of the "
                f"{sweep.baseline.parameters:,} parameters of the baseline (nearest: "
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
    spec: Mapping[str, Any],
    listed: Mapping[str, Any],
    changes: Mapping[str, Any],
    overrides: Sequence[str] = (),
    steps: int | None = None,
) -> ConfigDict:
    """Return the base config with an entry's changes and then the command line's overrides.

    Raises:
      UserError: an unknown field or an invalid value.
    """
    config = complete_config(listed.get("config", spec["config"]))
    if steps is not None:
        shorten(config, steps, keep_best=bool(spec.get("answers")))
    elif "steps" in spec:
        config.steps = spec["steps"]
    changes = dict(changes)
    if "model" in changes:
        apply_overrides(config, [f"--config.model={changes.pop('model')}"])
        config.model_config = ConfigDict(model_defaults(config.model))
    for name, value in changes.items():
        text = repr(value) if isinstance(value, tuple | list) else str(value)
        apply_overrides(config, [f"--config.{dotted(config, name)}={text}"])
    apply_overrides(config, overrides)
    validate_config(config)
    return config


def _with_base(config: ConfigDict, bases: dict[str, Base | None]) -> ConfigDict:
    """Fill in what the base of a tuned model brings; `bases` caches it per folder."""
    folder = config.tune.base
    if folder not in bases:
        bases[folder] = open_base(config, load_model)
    return with_base_of(config, bases[folder])


def _with_vocab(config: ConfigDict, vocabularies: dict[str, int]) -> ConfigDict:
    """Resolve the vocabulary size from the tokenizer; `vocabularies` caches it per corpus."""
    length = config.seq_len if config.data.format == SYNTHETIC_FORMAT else 0
    key = json.dumps([config.data.to_dict(), length], sort_keys=True)
    if key not in vocabularies:
        corpus = tasks.load_corpus(config)
        vocabularies[key] = corpus.tokenizer.vocab_size
    return resolve_vocab(config, vocabularies[key])


def plan_table(sweep: Sweep) -> Table:
    """Return the plan with one row per entry; sizes far from the baseline's are marked."""
    rows = []
    for entry in sweep.entries.values():
        difference = sweep.difference(entry)
        size = f"{difference:+.1%}"
        changes = ", ".join(f"{name}={value}" for name, value in entry.changes.items())
        row = [entry.group, entry.name, f"{entry.parameters:,}"]
        row += [Mark(size, "warn") if abs(difference) > TOLERANCE else size]
        rows.append([*row, f"{entry.tokens:,}", changes])
    return Table(("group", "entry", "parameters", "", "tokens", "changes"), rows, left=(0, 1, 5))
