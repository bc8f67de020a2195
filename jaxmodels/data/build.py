"""`python -m jaxmodels.data.build SOURCE ... --out FOLDER`: write pairs as HRM datasets.

Every question is a group of its own, in which stand all its answers: those are never on both sides
of the split, and HRM's loader draws one of them an epoch, however often the source repeats it.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxmodels import cli
from jaxmodels.data.pairs.files import read_all
from jaxmodels.data.pairs.hrm_format import (
    SPLITS,
    TOKENIZER_FILE,
    Split,
    arrays_of,
    question_of,
    read_built,
    write_split,
)
from jaxmodels.data.pairs.layout import read_answer
from jaxmodels.data.pairs.rows import Pair, lay_out_pairs
from jaxmodels.data.tasks import TASKS, make_task, split_by_combination, split_by_question
from jaxmodels.data.tokenizers.byte_word import Tokenizer
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS, fit_tokenizer
from jaxmodels.data.tokenizers.grid import GridTokenizer
from jaxmodels.errors import UserError
from jaxmodels.models.hrlm.config import UNK

TEXT_MODES = ("nar", "prefix_ar", "as_written")


@dataclasses.dataclass(frozen=True)
class Options:
    """How pairs become rows.

    Attributes:
      mode, seq_len: see `prompts.lay_out`.
      tokenizer, max_tokens: see `fit_tokenizer`; it learns from training pairs alone.
      count: pairs of each task.
      train_split: share of the questions to train on (L-34).
      question_prefix: what a file's questions begin with.
      skip_long: leave out pairs that do not fit; else they are a UserError.
    """

    mode: str = "nar"
    seq_len: int = 256
    tokenizer: str = "answer_char"
    max_tokens: int = 1000
    count: int = 1000
    train_split: float = 0.8
    seed: int = 0
    question_prefix: str = ""
    skip_long: bool = False


def pairs_of_sources(
    sources: Sequence[str], options: Options
) -> tuple[list[Pair], list[Pair], str]:
    """-> (train, test, how they were split in words).

    Tasks are split by unseen combination of what fills their slots; one slot alone combines with
    nothing, so such pairs, and those of files, are split by unique question (SYSTEMS 5.3).

    Raises:
      UserError: neither a task nor a file, a line that is not as it should be, an empty side.
    """
    if not 0.0 < options.train_split < 1.0:
        raise UserError(f"train_split: a share between 0 and 1, got {options.train_split}")
    held = 1.0 - options.train_split
    train: list[Pair] = []
    test: list[Pair] = []
    ways: list[str] = []
    tasks = [name for name in sources if name in TASKS and not Path(name).exists()]
    for name in tasks:
        pairs = make_task(name, options.count, options.seed)
        combines = all(len(pair.combination) > 1 for pair in pairs)
        split = split_by_combination if combines else split_by_question
        ways.append("by unseen combination of slots" if combines else "by unique question")
        for side, part in zip((train, test), split(pairs, held, options.seed), strict=True):
            side += part
    paths = [name for name in sources if name not in tasks]
    for path in paths:
        # What is no file and looks like a name was perhaps meant as one.
        if not Path(path).exists() and Path(path).name == path and path.isidentifier():
            raise UserError(f"{path}: neither a file nor a task; tasks are {', '.join(TASKS)}")
    if paths:
        pairs = read_all(paths, options.question_prefix)
        ways.append("by unique question")
        parts = split_by_question(pairs, held, options.seed)
        for side, part in zip((train, test), parts, strict=True):
            side += part
    # A file may repeat what a task asks, or one task what another does.
    shown = {pair.question.strip() for pair in train}
    test = [pair for pair in test if pair.question.strip() not in shown]
    if not (train and test):
        raise UserError(
            f"train_split: {len(train)} pairs to train on and {len(test)} to test; give more "
            "pairs or another share"
        )
    return train, test, " and ".join(dict.fromkeys(ways))


def build(sources: Sequence[str], out: Path, options: Options) -> str:
    """Writes a new folder `out`, all or nothing; -> one line on what it holds.

    Raises:
      UserError: what `pairs_of_sources`, `fit_tokenizer` and `lay_out` find; `out` exists.
    """
    if options.mode not in TEXT_MODES:
        raise UserError(f"mode: {options.mode!r} is none of {', '.join(TEXT_MODES)}")
    _must_be_new(out)
    part = out.with_name(out.name + ".part")
    _must_be_new(part)
    train, test, way = pairs_of_sources(sources, options)
    tokenizer = fit_tokenizer(options.tokenizer, train, options.max_tokens)
    laid, left_out = {}, 0
    for name, pairs in zip(SPLITS, (train, test), strict=True):
        pairs = _grouped(pairs)
        rows = lay_out_pairs(
            pairs, tokenizer, options.mode, options.seq_len, skip_long=options.skip_long
        )
        left_out += len(pairs) - len(rows.kept)
        questions = (pairs[i].question.strip() for i in rows.kept)
        sizes = np.array([len(list(same)) for _, same in itertools.groupby(questions)])
        laid[name] = arrays_of(rows, sizes)
    told = {"sources": list(sources), "split": way, "left_out": left_out}
    try:
        part.mkdir(parents=True)
        try:
            for name, arrays in laid.items():
                write_split(part / name, arrays, tokenizer.vocab_size)
            for name, text in (
                (TOKENIZER_FILE, tokenizer.to_json()),
                ("identifiers.json", json.dumps(["<blank>"])),  # as HRM: names of identifiers
                ("build.json", json.dumps(told | dataclasses.asdict(options), indent=1)),
            ):
                (part / name).write_text(text + "\n", encoding="utf-8")
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error})") from error
    sizes = " + ".join(f"{len(arrays.inputs):,} {name}" for name, arrays in laid.items())
    return f"{out}: {sizes} rows, split {way}" + (f", {left_out} too long" if left_out else "")


def _must_be_new(path: Path) -> None:
    if os.path.lexists(path):
        raise UserError(f"{path}: exists already; name a new one or remove it")


def _grouped(pairs: Sequence[Pair]) -> list[Pair]:
    """Those of one question beside each other, in the order in which questions first come."""
    whole: dict[str, list[Pair]] = {}
    for pair in pairs:
        whole.setdefault(pair.question.strip(), []).append(pair)
    return [pair for members in whole.values() for pair in members]


def verify(folder: Path) -> str:
    """What a folder holds, read from its files: shapes, vocabulary, length, leaks (L-38)."""
    splits, tokenizer = read_built(folder)
    text = tokenizer is not None and not isinstance(tokenizer, GridTokenizer)
    lines, asked = [], {}
    for name, split in splits.items():
        m = split.metadata
        lines.append(f"{name}: seq_len {m.seq_len}, vocab_size {m.vocab_size}")
        asked[name] = set()
        for of, arrays in split.sets.items():
            shapes = (f"{field} {values.shape}" for field, values in arrays._asdict().items())
            lines.append(f"  {of}: " + ", ".join(shapes))
            rows = split.rows(of)
            labels = rows.targets[rows.weights > 0]
            unknown = f", {np.mean(labels == UNK):.1%} of them unknown" if text else ""
            lines.append(f"  {len(labels):,} labels{unknown}")
            asked[name] |= {(question_of(row) if text else row).tobytes() for row in arrays.inputs}
            if text:
                lines.append(f"  {_shown(split, of, tokenizer)}")
    if len(asked) == 2:
        lines.append(f"questions on both sides: {len(asked['train'] & asked['test'])}")
    return "\n".join(lines)


def _shown(split: Split, of: str, tokenizer: Tokenizer) -> str:
    """The first row as text."""
    rows = split.rows(of)
    row, places = rows.inputs[0], np.flatnonzero(rows.weights[0])
    question = tokenizer.decode(question_of(row))
    answer = tokenizer.decode(read_answer(rows.targets[0][places], row[:0]))
    return f"first: {question!r} -> {answer!r}"


EXAMPLES = """
examples:
  python -m jaxmodels.data.build seed_translation --out data/translation-simple --verify
  python -m jaxmodels.data.build pairs.jsonl more.tsv --mode prefix_ar --tokenizer bpe --out data/mine
  python -m jaxmodels.data.build --verify --out data/mine

A line of a .jsonl file has the fields input and output (or question and answer, or prompt and
response); of a .tsv file the first two columns are read.
"""  # noqa: E501 - a command line of one line


@cli.command()
def main(arguments: list[str]) -> None:
    """Build rows, verify them, or both."""
    defaults = Options()
    parser = cli.parser(
        "jaxmodels.data.build",
        "Builds rows in .npy files from questions with answers, for HRM's loader.\n"
        f"SOURCE is a file, a folder, or a task: {', '.join(TASKS)}.",
        epilog=EXAMPLES,
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="none: only --verify")
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--verify", action="store_true", help="read it back and print what it is")
    parser.add_argument("--mode", choices=TEXT_MODES, default=defaults.mode)
    parser.add_argument("--tokenizer", choices=TEXT_TOKENIZERS, default=defaults.tokenizer)
    for name, what in (
        ("seq-len", "tokens of a row"),
        ("max-tokens", "vocabulary of hybrid and bpe"),
        ("count", "pairs of each task"),
        ("train-split", "share of the questions to train on"),
        ("seed", "of drawing and splitting"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        what += " (default %(default)s)"
        parser.add_argument(f"--{name}", type=type(default), default=default, help=what)
    parser.add_argument("--question-prefix", default="", help="what a file's questions begin with")
    parser.add_argument("--skip-long", action="store_true", help="leave out what does not fit")
    given = vars(parser.parse_args(arguments))
    sources, out, wants = given.pop("sources"), given.pop("out"), given.pop("verify")
    if sources:
        print(build(sources, out, Options(**given)))
    elif not wants:
        raise UserError("SOURCE: name a task or files, or --verify to look at what is there")
    if wants:
        print(verify(out))


if __name__ == "__main__":
    sys.exit(main())
