"""Answer tasks: questions with answers, for HRLM and HRM.

    data.format "pairs"    files `data.paths` (jaxmodels.data.pairs.files), of which `data.columns`
                           may name the fields; split by unique question
                "task"     generated texts `data.tasks` (jaxmodels.data.tasks), split by unseen
                           combination of slot values
                "puzzle"   generated grids `data.tasks` (jaxmodels.data.puzzles), or those of
                           `data.paths` (jaxmodels.data.puzzles.read); split by puzzle
                "built"    folder `data.paths` of preprocessed rows (jaxmodels.data.build, or HRM's
                           datasets) with its own split and tokenizer; `data.tasks` may name the
                           kind of puzzle, for its symbols and augmentation

The model determines the rows' mode and length. `test_fraction / (valid_fraction + test_fraction)`
of the held-out pairs form the test split.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.cli import did_you_mean
from jaxmodels.data.pairs.alphabet import check_alphabet
from jaxmodels.data.pairs.files import read_all
from jaxmodels.data.pairs.hrm_read import built_pairs, built_prefix
from jaxmodels.data.pairs.noise import question_noise
from jaxmodels.data.pairs.rows import (
    Augmentation,
    Pair,
    PairCorpus,
    Rows,
    evenly_spaced,
    lay_out_pairs,
    row_eval_stream,
    row_stream,
    texts_of,
)
from jaxmodels.data.puzzles.kinds import PUZZLES, Puzzle
from jaxmodels.data.puzzles.read import read_puzzles
from jaxmodels.data.tasks import (
    TASKS,
    make_task,
    split_by_combination,
    split_by_question,
    split_unseen,
)
from jaxmodels.data.tokenizers.base import Tokenizer
from jaxmodels.data.tokenizers.fit import fit_tokenizer
from jaxmodels.data.tokenizers.grid import GridTokenizer
from jaxmodels.data.unused import Unused, share_note
from jaxmodels.errors import UserError
from jaxmodels.paths import is_dir, user_path
from train.model import model_fields, resolve_vocab
from train.tasks.fields import ANSWER_TOKENIZERS, PREFIXED
from train.tasks.task import Task, stream_arguments


def open_answers(config: ConfigDict) -> Task:
    """Read or generate the pairs and make the streams; raise UserError if invalid."""
    _check_fit(config)
    corpus = pairs_of(config)
    config = _with_prefix(resolve_vocab(config, corpus.tokenizer.vocab_size))
    rows = rows_of(config, corpus.train, corpus.tokenizer)
    _check_identifiers(config, corpus)
    valid, valid_bytes = _valid_stream(config, corpus) if config.eval_every else (None, 0)
    streams = stream_arguments(config)
    total = sum(len(p.question.encode()) + len(p.answer.encode()) for p in corpus.train)
    return Task(
        config=config,
        corpus=corpus,
        train=row_stream(rows, seed=config.seed, augmentation=_augmentation(config), **streams),
        valid=valid,
        valid_bytes=valid_bytes,
        bytes_per_token=total / (len(corpus.train) * config.seq_len),
        steps_per_epoch=len(rows.inputs) / config.batch_size,
        fingerprint=corpus.fingerprint(),
        notes=(
            *corpus.notes,
            *share_note(
                "pairs of train too long", len(corpus.train) - len(rows.kept), len(corpus.train)
            ),
        ),
    )


def _augmentation(config: ConfigDict) -> Augmentation | None:
    """Return a puzzle's symmetries, noise for questions in text, or None without `data.augment`."""
    d = config.data
    if not d.augment:
        return None
    if _puzzling(config):
        return puzzle_of(config).augmentation
    return question_noise(d.augment_rate, config.seq_len)


def _puzzling(config: ConfigDict) -> bool:
    """Return whether the rows are grids, of a puzzle that is known or not."""
    if config.data.format == "puzzle" or ":" in config.model:
        return config.data.format == "puzzle"
    return jaxmodels.make_config(config.model, **_without_vocab(config)).mode == "grid"


def _without_vocab(config: ConfigDict) -> dict[str, Any]:
    """Return the fields of the model, whose vocabulary may not be resolved yet."""
    return {name: value for name, value in model_fields(config).items() if name != "vocab_size"}


def pairs_of(config: ConfigDict) -> PairCorpus:
    """Return the pairs of an experiment, split, and their tokenizer.

    Raises:
      UserError: unknown task, invalid file, an empty split, or a tokenizer of another format.
    """
    d = config.data
    if d.tokenizer not in ANSWER_TOKENIZERS:
        raise UserError(
            f"config.data.tokenizer: format {d.format!r} needs one of "
            f"{', '.join(ANSWER_TOKENIZERS)}, got {d.tokenizer!r}"
        )
    held = d.valid_fraction + d.test_fraction
    if not (d.valid_fraction > 0 and d.test_fraction >= 0 and held < 1):
        raise UserError(
            "config.data: valid_fraction must be above 0, test_fraction 0 or more, together "
            f"below 1, got {d.valid_fraction} and {d.test_fraction}"
        )
    read = {
        "pairs": _from_files,
        "task": _from_tasks,
        "puzzle": _from_puzzles,
        "built": _from_built,
    }
    unused = Unused()
    name, split, (train, valid, test), tokenizer = read[d.format](config, unused)
    if not (train and valid):
        raise UserError(
            f"config.data: {len(train)} pairs to train on and {len(valid)} for validation; give "
            "more examples or other fractions"
        )
    if tokenizer is None:
        tokenizer = _tokenizer(config, train)
    splits = {"train": tuple(train), "valid": tuple(valid), "test": tuple(test)}
    notes = (*unused.notes(), *check_alphabet(splits, tokenizer, d.max_unused))
    return PairCorpus(name, *splits.values(), tokenizer, split, notes)


def read_other(
    config: ConfigDict, paths: Sequence[str], tokenizer: Tokenizer, columns: Sequence[str] = ()
) -> tuple[list[Pair], tuple[str, ...]]:
    """Read pairs that a run is asked beside its own; return them and notes, as in a `PairCorpus`.

    Args:
      config: of the run; its format is read, or for text of any format that of "pairs".
      paths: files, folders or globs; of a run on a built folder also such a folder, whose test
        split is read.
      tokenizer: the run's.
      columns: instead of `data.columns`; () = these.

    Raises:
      UserError: a faulty file, or too much in it that the model does not read.
    """
    d, unused = config.data, Unused()
    columns, limits = columns or d.columns, {"max_unused": d.max_unused, "unused": unused}
    if d.format == "built" and len(paths) == 1 and Path(paths[0]).is_dir():
        pairs = _built(config, paths[0])[0]["test"]
    elif isinstance(tokenizer, GridTokenizer):
        pairs = read_puzzles(paths, config.seq_len, tokenizer.symbols, columns, **limits)
    else:
        prefix = d.question_prefix if d.format in PREFIXED else ""
        pairs = read_all(paths, prefix, columns, **limits)
    notes = check_alphabet({Path(paths[0]).name: pairs}, tokenizer, d.max_unused)
    return pairs, (*unused.notes(), *notes)


def _apart(unseen, split, config):
    """Split the held-out pairs into (valid, test) by the training split's keys, against leakage."""
    d = config.data
    return split(unseen, d.test_fraction / (d.valid_fraction + d.test_fraction), config.seed)


def _from_files(config, unused):
    d = config.data
    if not d.paths:
        raise UserError("config.data.paths: name files of pairs (--data pairs.jsonl), got none")
    limits = {"max_unused": d.max_unused, "unused": unused}
    pairs = read_all(d.paths, d.question_prefix, d.columns, **limits)
    train, unseen = split_by_question(pairs, d.valid_fraction + d.test_fraction, config.seed)
    parts = train, *_apart(unseen, split_by_question, config)
    return Path(d.paths[0]).stem, "by unique question", parts, None


def _from_tasks(config, unused):
    d = config.data
    _check_tasks(d.tasks, TASKS)
    parts: tuple[list[Pair], ...] = ([], [], [])
    for name in d.tasks:
        pairs = make_task(name, d.examples, config.seed)
        held = d.valid_fraction + d.test_fraction
        train, unseen = split_by_combination(pairs, held, config.seed)
        valid, test = _apart(unseen, split_unseen, config)
        lost = len(pairs) - len(train) - len(valid) - len(test)
        unused.add("held-out questions that another split has", name, lost)
        for part, some in zip(parts, (train, valid, test), strict=True):
            part += some
    return " + ".join(d.tasks), "by unseen combination of slots", parts, None


def _from_puzzles(config, unused):
    d, puzzle = config.data, puzzle_of(config)
    held = d.valid_fraction + d.test_fraction
    if d.paths:
        name = Path(d.paths[0]).stem
        limits = {"max_unused": d.max_unused, "unused": unused}
        pairs = read_puzzles(d.paths, puzzle.cells, puzzle.symbols, d.columns, **limits)
    else:
        name = d.tasks[0]
        pairs = puzzle.make(d.examples, config.seed)
    train, unseen = puzzle.split(pairs, held, config.seed)
    parts = train, *_apart(unseen, puzzle.split, config)
    return name, "by puzzle (9x9 Sudokus by solution)", parts, None


def _from_built(config, unused):
    del unused  # all rows are read
    d = config.data
    if len(d.paths) != 1 or not is_dir(user_path(d.paths[0])):
        raise UserError(
            "config.data.paths: must name exactly one existing directory (--data), got "
            f"{', '.join(d.paths) or 'none'}"
        )
    parts, tokenizer = _built(config, d.paths[0])
    unseen = _apart(parts["test"], split_by_question, config)
    return Path(d.paths[0]).name, "as it was built", (parts["train"], *unseen), tokenizer


def _with_prefix(config: ConfigDict) -> ConfigDict:
    """Set the question prefix of a run on a built folder, so that it is asked as it was trained."""
    if config.data.format != "built":
        return config
    stated, prefix = config.data.question_prefix, built_prefix(user_path(config.data.paths[0]))
    if stated not in ("", prefix):
        raise UserError(
            f"config.data.question_prefix: {stated!r}, but the folder was built with {prefix!r}; "
            "leave it out"
        )
    config = ConfigDict(config.to_dict())
    config.data.question_prefix = prefix
    return config


def _built(config, folder):
    """Return ({"train": pairs, "test": pairs}, tokenizer) of a built folder for the run's model."""
    model = jaxmodels.make_config(config.model, **_without_vocab(config))
    symbols = puzzle_of(config).symbols if len(config.data.tasks) and model.mode == "grid" else ""
    return built_pairs(user_path(folder), model.mode, model.seq_len, symbols)


def puzzle_of(config: ConfigDict) -> Puzzle:
    """Return the kind of puzzle of an experiment."""
    names = config.data.tasks
    _check_tasks(names, PUZZLES)
    if len(names) != 1:
        raise UserError(f"config.data.tasks: must name one kind of puzzle, got {', '.join(names)}")
    return PUZZLES[names[0]]


def _check_tasks(names, valid):
    if not names:
        raise UserError(f"config.data.tasks: name at least one of {', '.join(valid)}")
    for name in names:
        if name not in valid:
            raise UserError(f"config.data.tasks: unknown {name!r}{did_you_mean(name, valid)}")


def _tokenizer(config, train):
    d = config.data
    if (d.tokenizer == "grid") != (d.format == "puzzle"):
        raise UserError(
            f"config.data.tokenizer: {d.tokenizer!r} does not support format {d.format!r}; "
            "puzzles need 'grid', which supports nothing else"
        )
    if d.tokenizer == "grid":
        return GridTokenizer(puzzle_of(config).symbols)
    return fit_tokenizer(d.tokenizer, texts_of(train), d.max_tokens)


def rows_of(config: ConfigDict, pairs, tokenizer) -> Rows:
    """Lay out pairs as the experiment's model reads them; raise UserError if one does not fit."""
    model = jaxmodels.make_config(config.model, **model_fields(config))
    skip = config.data.skip_long
    try:
        return lay_out_pairs(
            pairs, tokenizer, model.mode, model.seq_len, model.limits, skip_long=skip
        )
    except UserError as error:
        if model.mode == "grid" or skip:
            raise
        field = str(error).partition(":")[0]
        field = field if field == "seq_len" else f"model_config.{field}"
        raise UserError(
            f"{error}; raise config.{field}, or leave such pairs out: config.data.skip_long=true"
        ) from error


def _check_fit(config: ConfigDict) -> None:
    """Reject config values that do not apply to pairs, before anything is read."""
    d = config.data
    if config.curriculum:
        raise UserError("config.curriculum: rows of pairs have a fixed length; leave it out")
    if ":" not in config.model and not hasattr(jaxmodels.make_config(config.model), "mode"):
        raise UserError(
            f"config.data.format: model {config.model!r} does not read {d.format!r}; "
            "hrlm and hrm do"
        )
    if d.augment and d.format == "built" and _puzzling(config) and not len(d.tasks):
        raise UserError("config.data.augment: only known puzzles are augmented; set it to false")


def _valid_stream(config: ConfigDict, corpus: PairCorpus) -> tuple[Any, int]:
    """Return (batches over `eval_tokens` of the validation pairs, bytes of their answers)."""
    tokens = config.data.eval_tokens
    held = rows_of(config, corpus.valid, corpus.tokenizer)
    limit = max(tokens // config.seq_len, 1) if tokens else None
    chosen = np.array(evenly_spaced(range(len(held.kept)), limit))  # from every task and file
    held = Rows(*(column[chosen] for column in held))
    valid_bytes = sum(len(corpus.valid[i].answer.encode()) for i in held.kept)
    return row_eval_stream(held, **stream_arguments(config)), valid_bytes


def _check_identifiers(config, corpus):
    """Reject a table of puzzle vectors that is too short: look-ups would silently clamp."""
    learned = model_fields(config).get("puzzle_ids", 0)
    needed = 1 + max(p.identifier for p in (*corpus.train, *corpus.valid, *corpus.test))
    if learned and learned < needed:
        raise UserError(
            f"config.model_config.puzzle_ids: {learned} vectors, but the data have {needed} "
            f"puzzles; set it to {needed}, or to 0 for none"
        )
