"""`python -m jaxmodels.data.build SOURCE ... --out FOLDER`: write pairs as HRM datasets."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxmodels import cli
from jaxmodels.data.pairs.alphabet import check_alphabet
from jaxmodels.data.pairs.hrm_read import verify
from jaxmodels.data.pairs.hrm_write import write_hrm
from jaxmodels.data.pairs.rows import texts_of
from jaxmodels.data.tasks import TASKS
from jaxmodels.data.tasks.sources import pairs_of_sources
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS, fit_tokenizer
from jaxmodels.data.unused import LIMIT, Unused
from jaxmodels.errors import UserError
from jaxmodels.writing import must_be_new

TEXT_MODES = ("nar", "prefix_ar", "as_written")


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of a build.

    Attributes:
      mode, seq_len: see `lay_out`.
      tokenizer, max_tokens: see `fit_tokenizer`; fitted on training pairs only.
      count: pairs per task.
      train_split: fraction of the questions to train on.
      question_prefix: text put before each question of a file.
      columns: names of the fields to read of a file, the answer last; () = known names.
      max_unused: largest share of text in other fields, and of symbols that the tokenizer lacks.
      skip_long: leave out pairs that do not fit; otherwise they raise a UserError.
    """

    mode: str = "nar"
    seq_len: int = 256
    tokenizer: str = "answer_char"
    max_tokens: int = 1000
    count: int = 1000
    train_split: float = 0.8
    seed: int = 0
    question_prefix: str = ""
    columns: tuple[str, ...] = ()
    max_unused: float = LIMIT
    skip_long: bool = False


def build(sources: Sequence[str], out: Path, options: Options) -> str:
    """Write a new folder `out`, all or nothing; return lines on its contents and what is not used.

    Raises:
      UserError: see `pairs_of_sources`, `fit_tokenizer`, `check_alphabet` and `write_hrm`.
    """
    if options.mode not in TEXT_MODES:
        raise UserError(
            f"mode: unknown {options.mode!r}{cli.did_you_mean(options.mode, TEXT_MODES)}"
        )
    must_be_new(out)  # fail before the work, not after it
    unused = Unused()
    train, test, split = pairs_of_sources(
        sources,
        count=options.count,
        train_split=options.train_split,
        seed=options.seed,
        question_prefix=options.question_prefix,
        columns=options.columns,
        max_unused=options.max_unused,
        unused=unused,
    )
    tokenizer = fit_tokenizer(options.tokenizer, texts_of(train), options.max_tokens)
    known = check_alphabet({"train": train, "test": test}, tokenizer, options.max_unused)
    notes = (*unused.notes(), *known)
    counts, left_out = write_hrm(
        out,
        train,
        test,
        tokenizer,
        mode=options.mode,
        seq_len=options.seq_len,
        skip_long=options.skip_long,
        origin={
            "sources": list(sources),
            "split": split,
            **dataclasses.asdict(options),
            "notes": notes,
        },
    )
    rows = " + ".join(f"{count:,} {name}" for name, count in counts.items())
    says = f"{out}: {rows} rows, split {split}" + (f", {left_out} too long" if left_out else "")
    return "\n".join((says, *notes))


EXAMPLES = """
examples:
  python -m jaxmodels.data.build seed_translation --out data/translation-simple --verify
  python -m jaxmodels.data.build pairs.jsonl more.tsv --mode prefix_ar --tokenizer bpe --out data/mine
  python -m jaxmodels.data.build --verify --out data/mine

A line of a .jsonl file has the fields input and output (or instruction and response, question and
answer, prompt and response, ...); a .tsv file has two columns. --columns names others, the answer
last. What is not used is counted and printed.
"""  # noqa: E501 - a command line of one line


@cli.command()
def main(arguments: list[str]) -> None:
    """Build rows, verify them, or do both."""
    defaults = Options()
    parser = cli.parser(
        "jaxmodels.data.build",
        "Build rows in .npy files from question-answer pairs, for HRM's loader.\n"
        f"SOURCE is a file, a folder, or a task: {', '.join(TASKS)}.",
        epilog=EXAMPLES,
    )
    parser.add_argument("sources", metavar="SOURCE", nargs="*", help="may be omitted with --verify")
    out = {"metavar": "FOLDER", "type": Path, "action": cli.ExpandPath}
    parser.add_argument("--out", **out, required=True)
    parser.add_argument("--verify", action="store_true", help="read it back and print a summary")
    parser.add_argument("--mode", choices=TEXT_MODES, default=defaults.mode)
    parser.add_argument("--tokenizer", choices=TEXT_TOKENIZERS, default=defaults.tokenizer)
    for name, text in (
        ("seq-len", "tokens per row"),
        ("max-tokens", "vocabulary size of hybrid and bpe"),
        ("count", "pairs per task"),
        ("train-split", "fraction of the questions to train on"),
        ("seed", "seed of sampling and splitting"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        text += " (default %(default)s)"
        parser.add_argument(f"--{name}", type=type(default), default=default, help=text)
    parser.add_argument("--question-prefix", default="", help="text before each question of a file")
    parser.add_argument("--columns", nargs="+", default=(), metavar="NAME", help="fields to read")
    parser.add_argument(
        "--max-unused", type=float, default=LIMIT, help="share; default %(default)s"
    )
    parser.add_argument("--skip-long", action="store_true", help="leave out pairs that do not fit")
    options = vars(parser.parse_args(arguments))
    sources, out, verifies = options.pop("sources"), options.pop("out"), options.pop("verify")
    options["columns"] = tuple(options["columns"])
    cli.utf8(options["question_prefix"], "--question-prefix")
    if sources:
        print(build(sources, out, Options(**options)))
    elif not verifies:
        raise UserError("SOURCE: name a task or files, or pass --verify to check a built folder")
    if verifies:
        print(verify(out))


if __name__ == "__main__":
    sys.exit(main())
