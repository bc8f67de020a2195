"""Evaluate a trained run.

    python -m eval --workdir=runs/name [--split valid test] [--data PATH ...]
                   [--checkpoint best|last|STEP] [--max-bytes N] [--whole-documents]
                   [--columns NAME ...] [--max-pairs N] [--max-steps N] [--bleu-tokenizer NAME]
                   [--replies N]

For a run on text, writes `eval.json` into the run's folder, updates `report.html`, and prints
bits per byte, perplexity, every loss and accuracy of the model, and byte-Markov baselines on
the same text. For a run on questions, writes `answers.json`: exact matches on seen and unseen
questions, BLEU, chrF, ROUGE-L or cell accuracy, ACT steps, speed. For a run on conversations,
writes `chat.json`: bits per byte of responses, and scores of the heads. For a run on a synthetic
task, writes `task.json`: accuracy on rows of another seed, and whole rows.

--data measures a run on other text, questions or puzzles, and writes `eval_other.json` or
`answers_other.json`. Numbers are shown before they are stored, and also if that fails.
"""

import shlex
import sys

from jaxmodels import cli

SPLITS = ("valid", "test")
MAX_PAIRS = 1000


@cli.command()
def main(arguments: list[str]) -> None:
    """Evaluate a run and print the result as a table."""
    parser = cli.parser("eval", __doc__, workdir=cli.RUN, checkpoint=True)
    add = parser.add_argument
    add("--split", nargs="+", choices=SPLITS, default=list(SPLITS))
    add("--data", nargs="+", help="other files, folders or globs")
    add("--columns", nargs="+", metavar="NAME", help="fields of --data to read, the answer last")
    add("--batch-size", type=int, default=32, help="rows per batch; default: %(default)s")
    add("--max-bytes", type=int, help="approximate limit for each split; default: no limit")
    add("--whole-documents", action="store_true", help="do not cut documents (slower)")
    add("--max-pairs", type=int, default=MAX_PAIRS, help="questions or exchanges; 0 = all")
    add("--replies", type=int, default=20, help="held-out prompts to reply to; default: 20")
    add("--max-steps", type=int, help="limit of ACT steps; default: as trained")
    add("--bleu-tokenizer", default="13a", metavar="NAME", help="13a, zh, char, ...; default: 13a")
    options = parser.parse_args(arguments)

    from eval import evaluators
    from eval.report.document import Text, to_terminal
    from train.io.lock import one_writer

    evaluator = evaluators.evaluator_of(options.workdir)
    with one_writer(options.workdir, "python -m eval", role="eval"):
        evaluation = evaluator.run(options, shlex.join(["python", "-m", "eval", *arguments]))
        to_terminal(evaluator.summary(evaluation.result))
        to_terminal([Text(f"wrote {', '.join(evaluation.store())}", "missing")])


if __name__ == "__main__":
    sys.exit(main())
