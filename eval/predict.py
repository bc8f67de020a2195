"""Ask a trained model questions.

    python -m eval.predict --workdir=runs/translate --input "Translate to Spanish: The cat is big."
    python -m eval.predict --workdir=runs/translate < questions.txt

Without --input every line of the standard input is a question. Answers go to the standard output,
one a line, line breaks within one as \\n; with --show also after each round of thinking.
"""

import sys

from eval.report.document import printable
from jaxmodels import cli
from jaxmodels.errors import UserError


@cli.command(interrupted="")
def main(arguments: list[str]) -> None:
    """Print an answer for each question."""
    parser = cli.parser(
        "eval.predict", __doc__, workdir="folder of a run that answers questions", checkpoint=True
    )
    parser.add_argument("--input", nargs="+", metavar="TEXT", help="questions")
    parser.add_argument(
        "--halt",
        choices=("max", "adaptive"),
        help="think all rounds, or until the model wishes to halt; by default as it was trained",
    )
    parser.add_argument("--max-steps", type=int, metavar="N", help="rounds of thinking at most")
    parser.add_argument("--batch-size", type=int, default=16, help="questions side by side")
    parser.add_argument(
        "--puzzle", type=int, default=0, metavar="N", help="of a model that has vectors of puzzles"
    )
    parser.add_argument("--show", action="store_true", help="the answer after every round")
    flags = parser.parse_args(arguments)
    from eval.evaluators.infer import HRLMInference

    questions = [line for line in _asked(flags.input) if line.strip()]
    if not questions:
        raise UserError("no question: give --input, or lines on the standard input")
    model = HRLMInference(
        flags.workdir,
        checkpoint=flags.checkpoint,
        halt=flags.halt,
        batch_size=min(flags.batch_size, len(questions)),
        max_steps=flags.max_steps,
    )
    if flags.puzzle and not model.asker.model.config.puzzle_ids:
        raise UserError(f"--puzzle={flags.puzzle}: this model has no vectors of puzzles")
    puzzles = [flags.puzzle] * len(questions)
    if flags.show:
        answers = model.ask(questions, puzzles)
        texts = model.asker.chosen(answers)
    else:
        texts = model.predict_all(questions, puzzles)
    for i, answer in enumerate(texts):
        print(_line(answer))
        if flags.show:
            for count, after in enumerate(answers.by_round, 1):
                here = "  <- halts" if count == answers.rounds[i] else ""
                print(f"  round {count}: {_line(after[i])}{here}")


def _asked(given: list[str] | None) -> list[str]:
    """Questions as the command line or the standard input has them."""
    try:
        asked = given if given is not None else sys.stdin.read().splitlines()
        "\n".join(asked).encode()  # bytes that are no text come as halves of surrogate pairs
    except UnicodeError as error:
        where = "--input" if given is not None else "standard input"
        raise UserError(f"{where}: questions must be UTF-8") from error
    return asked


def _line(text: str) -> str:
    return printable(text).replace("\n", "\\n")


if __name__ == "__main__":
    sys.exit(main())
