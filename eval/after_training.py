"""Samples and report of a run right after its last step; the only code that `train` calls here."""

import shlex
from pathlib import Path
from typing import Any

import jax

from eval.evaluators.infer import Answerer
from eval.report.document import printable
from eval.report.run_page import write_report
from eval.run import Run, load_run, load_trained
from eval.sample import sample
from jaxmodels.cli import write_atomically
from jaxmodels.data.pairs.rows import that_fit
from jaxmodels.errors import UserError, from_os
from train.config import read_config
from train.tasks.answers import pairs_of
from train.tasks.fields import ANSWER_FORMATS, CHAT_FORMAT, SYNTHETIC_FORMAT

PROMPT, SAMPLE_TOKENS, QUESTIONS = "The people of ", 300, 3


def after_training(
    workdir: str | Path, result: Any, *, show: bool = True
) -> tuple[Path | None, list[str]]:
    """Print samples of a run's last checkpoint and write its report, loading the model once.

    Returns the path of the report, or None, and commands to suggest.

    User errors are printed, not raised. In a multi-process run only the commands are returned:
    restoring a checkpoint is a collective operation and the other processes have exited.

    Args:
      workdir: folder of the run.
      result: `train.loop.RunResult`.
      show: print a sample, or answers to a few questions; False writes the report only. A run
          on conversations or on a synthetic task has none.
    """
    workdir = Path(workdir)
    folder = shlex.quote(str(workdir))
    config = read_config(workdir / "config.json")
    answers = config.data.format in ANSWER_FORMATS
    chats = config.data.format == CHAT_FORMAT
    rows = config.data.format == SYNTHETIC_FORMAT
    if answers or chats or rows:
        commands = [f"python -m eval --workdir={folder}"]
        talks = chats and config.data.tokenizer == "byte"
        commands += [f"python -m eval.chat --workdir={folder}"] if talks else []
    else:
        commands = [f'python -m eval.sample --workdir={folder} --prompt "The people of"']
    if jax.process_count() > 1:
        return None, commands
    run = None
    try:
        if show and answers:
            question = shlex.quote(_print_answers(workdir))
            commands.append(f"python -m eval.predict --workdir={folder} --input {question}")
        elif show and not (chats or rows):
            run = load_run(workdir, checkpoint="last")
            _print_sample(run, result.step)
    except UserError as error:  # e.g. a model that cannot stream
        print(f"no sample: {error}")
    try:
        return write_report(workdir, run), commands
    except UserError as error:
        print(f"no report: {error}")
    return None, commands


def _print_sample(run: Run, step: int) -> None:
    """Print a text sample and write it to samples/step_N.txt (prompt, form feed, text)."""
    text = "".join(sample(run.model, run.corpus.tokenizer, PROMPT, tokens=SAMPLE_TOKENS))
    print(f"\nsample:\n{PROMPT}{printable(text)}")
    folder = run.workdir / "samples"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise from_os(error, f"{folder}: cannot be made") from error
    write_atomically(folder / f"step_{step}.txt", f"{PROMPT}\f{text}")


def _print_answers(workdir: Path) -> str:
    """Print answers to a few validation questions; return the first question."""
    trained, tokenizer = load_trained(workdir, "last")
    config, model = trained.config, trained.model
    corpus = pairs_of(config)
    c = model.config
    pairs = that_fit(corpus.valid, tokenizer, c.mode, c.seq_len, c.limits)[:QUESTIONS]
    answerer = Answerer(model, tokenizer, batch_size=len(pairs))
    for pair, answer in zip(pairs, answerer.answer([p.question for p in pairs]), strict=True):
        print(f"\n  {pair.question}\n  -> {printable(answer)}\n  expected: {pair.answer}")
    return pairs[0].question
