"""`python -m train`: train a model from a config file, or continue a run."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
from pathlib import Path

import absl.logging
import jax
from ml_collections import ConfigDict

import jaxmodels
from jaxmodels.data import tokenizer_from_json
from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags
from train.agree import together
from train.checkpoint import load_model
from train.config import apply_overrides, load_config, read_config, reads_pairs, validate_config
from train.loop import RunResult, run
from train.memory import keep_freed_memory
from train.model import model_fields

PROMPT, SAMPLE_TOKENS = "The people of ", 300

HELP = """\
Train a model. A run's folder gets config.json, metrics.jsonl, timing.jsonl, TensorBoard events,
checkpoints/ and report.html. Killed at any moment, a run continues with --resume as if undisturbed.

examples:
  python -m train --config=configs/prernk.py --workdir=runs/first
  python -m train --config=configs/prernk.py --workdir=runs/mine --data books/ notes.txt 'more/*.md'
  python -m train --config=configs/prernk.py --workdir=runs/fast --config.steps=200
  python -m train --workdir=runs/first --resume --config.steps=4000

exit status: 0 finished, or stopped by the controller; 2 a mistake in the input (one line says
which); 3 a loss or gradient ceased to be finite (the last good state is saved); 130 stopped by
Ctrl-C or SIGTERM (saved, resumable)."""


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax tells every file it writes
    logging.getLogger("absl").setLevel(logging.ERROR)
    argv = sys.argv[1:] if argv is None else argv
    try:
        args, overrides = _parser().parse_known_args(argv)
        keep_freed_memory()
        _join(args)
        config = together(lambda: _config(args, overrides))
        result = run(config, args.workdir, resume=args.resume, quiet=args.quiet)
        if jax.process_index() == 0:
            _say_goodbye(args, config, result)
        return {"finished": 0, "stopped": 0, "halted": 3, "interrupted": 130}[result.status]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was saved before is intact", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m train",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="python -m train --config=FILE --workdir=DIR [--config.FIELD=VALUE ...] "
        "[--data PATH ...] [--resume]",
    )
    add = parser.add_argument
    add(
        "--config",
        metavar="FILE",
        help="Python file with get_config(); with --resume, by default the run's own",
    )
    add(
        "--config.FIELD",
        metavar="VALUE",
        help="set a field of the config, e.g. --config.steps=2000",
    )
    add("--workdir", metavar="DIR", required=True, help="folder of the run")
    add(
        "--data",
        metavar="PATH",
        nargs="+",
        help="text files, folders or globs instead of the packaged corpus",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the run in --workdir from its newest whole checkpoint",
    )
    add("--quiet", action="store_true", help="print nothing but errors")
    group = parser.add_argument_group("several processes (start the command once in each)")
    group.add_argument(
        "--distributed", action="store_true", help="on a TPU pod or under Slurm: found by JAX"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num-processes", type=int, metavar="N")
    group.add_argument("--process-id", type=int, metavar="I", help="0 .. N-1")
    return parser


def _join(args: argparse.Namespace) -> None:
    """Starts `jax.distributed`, if the command line says that there are several processes."""
    if args.distributed:
        jax.distributed.initialize()
    given = {
        "--coordinator": args.coordinator,
        "--num-processes": args.num_processes,
        "--process-id": args.process_id,
    }
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing or args.distributed:
        wrong = f"{missing[0]} is missing" if missing else "--distributed finds them by itself"
        raise UserError(f"{', '.join(given)} belong together; {wrong}")
    if not re.fullmatch(r".+:\d+", args.coordinator):
        raise UserError(f"--coordinator={args.coordinator}: write HOST:PORT, e.g. 10.0.0.1:9876")
    if not 0 <= args.process_id < args.num_processes:
        raise UserError(
            f"--process-id must be 0 .. {args.num_processes - 1}, got {args.process_id}"
        )
    jax.distributed.initialize(args.coordinator, args.num_processes, args.process_id)


def _config(args: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    if args.config:
        config = load_config(args.config, overrides)
    elif args.resume:
        stored = Path(args.workdir) / "config.json"
        if not stored.is_file():
            raise UserError(f"--workdir={args.workdir}: holds no run to resume (no config.json)")
        config = read_config(stored)
        apply_overrides(config, overrides)
        validate_config(config)
    else:
        raise UserError("--config is missing, e.g. --config=configs/prernk.py")
    if args.data:
        config.data.paths = tuple(args.data)
    return config


def _say_goodbye(args: argparse.Namespace, config: ConfigDict, result: RunResult) -> None:
    workdir = shlex.quote(str(args.workdir))
    resume = f"python -m train --workdir={workdir} --resume"
    if result.status == "interrupted":
        print(f"stopped after step {result.step}, which is saved; continue with\n  {resume}")
        return
    if result.status == "halted":
        print(
            f"error: {result.message}; stopped, the state after step {result.step} is kept. "
            f"Lower the learning rate and continue with\n  {resume} "
            f"--config.optimizer.learning_rate={config.optimizer.learning_rate / 2:g}",
            file=sys.stderr,
        )
        return
    if args.quiet:
        return
    if reads_pairs(config):
        _answered(args, config, result)
        return
    report = ""
    # Of several processes the others are gone by now, and reading a checkpoint waits for all.
    if jax.process_count() == 1:
        try:
            _sample(Path(args.workdir), result.step)
        except UserError as error:  # e.g. a model that cannot stream
            print(f"no sample: {error}")
        try:
            report = f"; report: {_report(Path(args.workdir))}"
        except UserError as error:
            print(f"no report: {error}")
    if result.status == "stopped":
        print(f"\nstopped by the controller after {result.step} steps: {result.message}{report}")
    else:
        print(f"\nfinished {result.step} steps{report}")
    further = 2 * config.steps
    source = shlex.quote(args.config or "configs/prernk.py")
    print("next:")
    if result.status == "finished":
        print(f"  {resume} --config.steps={further}")
    print(f'  python -m eval.sample --workdir={workdir} --prompt "The people of"')
    print(f"  python -m train --config={source} --workdir=runs/mine --data path/to/texts")


def _answered(args: argparse.Namespace, config: ConfigDict, result: RunResult) -> None:
    """Some questions of the validation split with the model's answers, and what to do next."""
    from eval.answers.asking import HRLMInference
    from eval.page import printable
    from eval.report import write_report
    from jaxmodels.data.pairs import fitting
    from train.pairs import pairs_of

    workdir = shlex.quote(str(args.workdir))
    corpus, model = pairs_of(config), jaxmodels.make_config(config.model, **model_fields(config))
    shown = fitting(corpus.valid, corpus.tokenizer, model.mode, model.seq_len)[:3]
    answers: list[str] = []
    if jax.process_count() == 1:
        model = HRLMInference(args.workdir, checkpoint="last", batch_size=len(shown))
        answers = model.predict_all([pair.question for pair in shown])
        write_report(args.workdir)
    for pair, answer in zip(shown, answers, strict=False):
        print(f"\n  {pair.question}\n  -> {printable(answer)}\n  expected: {pair.answer}")
    print(f"\n{result.status} after {result.step} steps; next:")
    print(f"  python -m eval --workdir={workdir}")
    print(f"  python -m eval.predict --workdir={workdir} --input {shlex.quote(shown[0].question)}")
    if result.status == "finished":
        print(f"  python -m train --workdir={workdir} --resume --config.steps={2 * config.steps}")


def _sample(workdir: Path, step: int) -> None:
    """Print a text sample and keep it as samples/step_N.txt (prompt, form feed, text)."""
    from eval.page import printable
    from eval.sample import sample

    tokenizer = tokenizer_from_json((workdir / "tokenizer.json").read_text(encoding="utf-8"))
    trained = load_model(workdir, "last")
    text = "".join(sample(trained.model, tokenizer, PROMPT, tokens=SAMPLE_TOKENS))
    (workdir / "samples").mkdir(exist_ok=True)
    (workdir / "samples" / f"step_{step}.txt").write_text(f"{PROMPT}\f{text}", encoding="utf-8")
    print(f"\na sample:\n{PROMPT}{printable(text)}")


def _report(workdir: Path) -> str:
    from eval.report import write_report

    return str(write_report(workdir))


if __name__ == "__main__":
    sys.exit(main())
