"""`python -m train`: train a model from a config file, or continue a run."""

import argparse
import contextlib
import re
import shlex
import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.paths import is_file
from train.config import apply_overrides, load_config, read_config, validate_config
from train.config.schema import FIELDS
from train.devices.joining import LIMIT, initialize, joined
from train.devices.malloc import keep_freed_memory
from train.devices.processes import raise_everywhere
from train.io.lock import one_run
from train.loop import EXIT_STATUS, RunResult, run
from train.tasks.fields import SYNTHETIC_FORMAT

HELP = """\
Train a model. The run folder receives config.json, metrics.jsonl, timing.jsonl, TensorBoard events,
checkpoints/, report.html, and data.json: what was read, and what of it is not used. A run killed at
any moment resumes with --resume, bit for bit.

examples:
  python -m train --config=configs/prernk.py --workdir=runs/first
  python -m train --config=configs/prernk.py --workdir=runs/mine --data books/ notes.txt 'more/*.md'
  python -m train --config=configs/prernk.py --workdir=runs/fast --config.steps=200
  python -m train --workdir=runs/first --resume --config.steps=4000

exit status: 0 finished, or stopped by the controller; 2 invalid input (reported in one line); 3 a
loss or gradient became NaN or Inf (the last good state is saved); 4 the disk is full or failing
(what was saved before is intact); 5 another process of the run is gone; 130 stopped by Ctrl-C,
SIGTERM or a closed terminal (saved, resumable)."""


@cli.command(interrupted="interrupted; what was saved before is intact")
def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    cli.quiet_absl()
    args, overrides = cli.parse_with_overrides(_parser(), arguments)
    keep_freed_memory()
    with _processes(args):
        config = raise_everywhere(lambda: _config(args, overrides))
        with one_run(args.workdir):  # until the report is written
            result = run(config, args.workdir, resume=args.resume, quiet=args.quiet)
            if jax.process_index() == 0:
                _print_summary(args, config, result)
        return EXIT_STATUS[result.status]


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "train",
        HELP,
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
    add("--workdir", metavar="DIR", action=cli.ExpandPath, required=True, help="folder of the run")
    add(
        "--data",
        metavar="PATH",
        nargs="+",
        help="text files, folders or globs instead of the packaged corpus",
    )
    add(
        "--resume",
        action="store_true",
        help="continue the run in --workdir from its newest intact checkpoint",
    )
    add("--quiet", action="store_true", help="print nothing but errors")
    add("--help-config", action=_HelpConfig, nargs=0, help="list all config fields and exit")
    group = parser.add_argument_group("several processes (start the command once in each)")
    group.add_argument(
        "--distributed", action="store_true", help="let JAX discover them (TPU pod, Slurm)"
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    group.add_argument("--num-processes", type=int, metavar="N")
    group.add_argument("--process-id", type=int, metavar="I", help="0 .. N-1")
    group.add_argument(
        "--join-timeout",
        type=float,
        metavar="SECONDS",
        default=LIMIT,
        help="time to wait for the other processes; default: %(default)g",
    )
    return parser


class _HelpConfig(argparse.Action):
    """Action that prints all config fields and exits, like --help."""

    def __call__(self, parser, namespace, values, option_string=None):
        del namespace, values, option_string
        for name, field in FIELDS.items():
            changeable = "; may change on --resume" if field.resume else ""
            print(f"--config.{name} (default {field.default!r}{changeable})\n    {field.doc}")
        parser.exit()


def _processes(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """Return the context that joins the other processes that the command line names."""
    flags = {
        "--coordinator": args.coordinator,
        "--num-processes": args.num_processes,
        "--process-id": args.process_id,
    }
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        if args.distributed:
            initialize(
                "--distributed: found no TPU pod, Slurm or Open MPI around this process; elsewhere "
                f"give {', '.join(flags)}"
            )
        return contextlib.nullcontext()
    if missing or args.distributed:
        wrong = f"{missing[0]} is missing" if missing else "--distributed finds them by itself"
        raise UserError(f"{', '.join(flags)} belong together; {wrong}")
    if not re.fullmatch(".+:[0-9]{1,18}", args.coordinator):
        raise UserError(f"--coordinator={args.coordinator}: write HOST:PORT, e.g. 10.0.0.1:9876")
    if args.num_processes < 1:
        raise UserError(f"--num-processes={args.num_processes}: give at least 1")
    if not 0 <= args.process_id < args.num_processes:
        raise UserError(
            f"--process-id must be 0 .. {args.num_processes - 1}, got {args.process_id}"
        )
    if not args.join_timeout > 0:
        raise UserError(f"--join-timeout={args.join_timeout:g}: give more than 0 seconds")
    return joined(args.coordinator, args.num_processes, args.process_id, args.join_timeout)


def _config(args: argparse.Namespace, overrides: list[str]) -> ConfigDict:
    if args.config:
        config = load_config(args.config, overrides)
    elif args.resume:
        stored = Path(args.workdir) / "config.json"
        if not is_file(stored, "--workdir="):
            raise UserError(f"--workdir={args.workdir}: holds no run to resume (no config.json)")
        config = read_config(stored)
        apply_overrides(config, overrides)
        validate_config(config)
    else:
        raise UserError("--config is missing, e.g. --config=configs/prernk.py")
    if args.data:
        config.data.paths = tuple(args.data)
    return config


def _print_summary(args: argparse.Namespace, config: ConfigDict, result: RunResult) -> None:
    """Print how the run ended and the commands to continue with."""
    resume = f"python -m train --workdir={shlex.quote(str(args.workdir))} --resume"
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
    from eval.after_training import after_training  # draws pictures: slow to import

    path, commands = after_training(args.workdir, result)
    report = f"; report: {path}" if path else ""
    if result.status == "stopped":
        print(f"\nstopped by the controller after {result.step} steps: {result.message}{report}")
    else:
        print(f"\nfinished {result.step} steps{report}")
    example = "configs/tune.py" if config.tune.kind else "configs/prernk.py"
    source = shlex.quote(args.config or example)
    print("next:")
    if result.status == "finished":
        print(f"  {resume} --config.steps={2 * config.steps}")
    for command in commands:
        print(f"  {command}")
    if config.data.format == SYNTHETIC_FORMAT:
        return  # reads no files
    new = f"python -m train --config={source} --workdir=runs/mine --data path/to/files"
    if config.tune.kind:
        new += f" --config.tune.base={shlex.quote(config.tune.base)}"
        new += f" --config.tune.kind={config.tune.kind}"
    print(f"  {new}")


if __name__ == "__main__":
    cli.leave(main())
