"""Answer questions with a trained model.

    python -m eval.predict --workdir=runs/translate --input "Translate to Spanish: The cat is big."
    python -m eval.predict --workdir=runs/translate < questions.txt

Without --input, reads one question per line from standard input; only "\\n" ends a line. Prints one
answer per line, with line breaks as \\n, and a blank line for a blank line; with --show, also the
answer after each ACT step. Symbols that the tokenizer does not know are told on standard error.
"""

import codecs
import sys

from eval.report.document import printable
from jaxmodels import cli
from jaxmodels.cli import utf8
from jaxmodels.errors import UserError


@cli.command(interrupted="", prints=True)
def main(arguments: list[str]) -> None:
    """Print an answer to each question."""
    parser = cli.parser(
        "eval.predict", __doc__, workdir="folder of a run that answers questions", checkpoint=True
    )
    parser.add_argument("--input", nargs="+", metavar="TEXT", help="questions")
    parser.add_argument(
        "--halt",
        choices=("max", "adaptive"),
        help="run all ACT steps, or stop where the model halts; default: as trained",
    )
    parser.add_argument(
        "--confidence",
        type=float,
        metavar="P",
        help="with --halt adaptive: stop only where the model holds its answer for right with this "
        "probability or more; default: as trained",
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="limit of ACT steps")
    parser.add_argument("--batch-size", type=int, default=16, help="questions per batch")
    parser.add_argument(
        "--puzzle", type=int, default=0, metavar="N", help="puzzle id, for models that embed it"
    )
    parser.add_argument("--show", action="store_true", help="show the answer after every ACT step")
    flags = parser.parse_args(arguments)
    from eval.evaluators.infer import HRLMInference

    lines = _read_questions(flags.input)
    questions = [line for line in lines if line.strip()]
    if not questions:
        raise UserError("no question: give --input, or lines on standard input")
    model = HRLMInference(
        flags.workdir,
        checkpoint=flags.checkpoint,
        base=flags.base,
        halt=flags.halt,
        batch_size=min(flags.batch_size, len(questions)),
        max_steps=flags.max_steps,
        confidence=flags.confidence,
    )
    if flags.confidence is not None and model.answerer.halt == "max" and not flags.show:
        raise UserError(
            f"--confidence={flags.confidence:g}: all ACT steps are run; add --halt adaptive"
        )
    if flags.puzzle and not model.answerer.model.config.puzzle_ids:
        raise UserError(f"--puzzle={flags.puzzle}: this model has no puzzle embeddings")
    for note in model.notes(questions):
        print(f"warning: {note}", file=sys.stderr)
    puzzles = [flags.puzzle] * len(questions)
    if flags.show:
        answers = model.ask(questions, puzzles)
        texts = model.answerer.select(answers)
    else:
        texts = model.predict_all(questions, puzzles)
    numbers = iter(range(len(texts)))
    for line in lines:  # one line out for each line in, so that files stay side by side
        if not line.strip():
            print()
            continue
        i = next(numbers)
        print(_line(texts[i]))
        if flags.show:
            for count, after in enumerate(answers.by_round, 1):
                halt_mark = "  <- halts" if count == answers.rounds[i] else ""
                print(f"  round {count}: {_line(after[i])}{halt_mark}")


def _read_questions(arguments: list[str] | None) -> list[str]:
    """Return the questions of the command line, or else the lines of standard input."""
    if arguments is not None:
        return [utf8(text, "--input") for text in arguments]
    try:
        text = sys.stdin.buffer.read().removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"standard input: line {line} is not UTF-8; convert it") from error
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def _line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


if __name__ == "__main__":
    sys.exit(main())
