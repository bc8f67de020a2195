"""`python -m train.stages`: run a chain of stages, or resume one."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.json_text import decode_json
from jaxmodels.paths import is_file
from train.config import apply_overrides, complete_config, load_config, with_tuples
from train.devices.malloc import keep_freed_memory
from train.devices.processes import raise_everywhere
from train.io.lock import one_run
from train.loop import EXIT_STATUS
from train.stages import (
    Stage,
    check_stages,
    folders,
    frozen_until_loss,
    protocol,
    read_stages,
    run_stages,
)

CHAIN = "chain.json"
HELP = """\
Train in stages: runs in WORKDIR/1_<name>, WORKDIR/2_<name>, ..., each starting from the last
weights of the one before. All stages are checked before the first is trained. A chain killed at any
moment resumes with --resume; finished stages are kept.

stages (one of):
  --protocol identity --identity PATH ...   foundation, to its first plateau; induction, on those
                                            texts with the groups of --freeze frozen (default:
                                            embed); alignment, all parameters
  --protocol thaw --freeze GROUP            one group frozen until validation loss reaches
                                            --until-loss, then all parameters
  --stages FILE                             Python file with get_stages(), which returns
                                            [(name, {"field": value, ...}), ...], the changes to
                                            the config in each stage

examples:
  python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/identity \\
      --config.data.tokenizer=byte --protocol identity --identity Data/metacognition
  python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/thaw \\
      --protocol thaw --freeze mamba --until-loss 2.5
  python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/own \\
      --stages=configs/groundthink/stages.py --plan
  python -m train.stages --workdir=runs/own --resume

exit status: that of `python -m train` for the last stage run."""


@cli.command(interrupted="interrupted; what was saved before is intact")
def main(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    cli.quiet_absl()
    args, overrides = cli.parse_with_overrides(_parser(), arguments)
    keep_freed_memory()
    workdir = Path(args.workdir)
    config, stages = raise_everywhere(lambda: _chain(args, overrides, workdir))
    if args.plan:
        check_stages(config, stages)
        for folder, stage in zip(folders(stages, workdir), stages, strict=True):
            fields = ", ".join(f"{name}={value}" for name, value in stage.changes.items())
            print(f"{folder}: {fields or 'the config as it is'}")
        return 0
    with one_run(workdir, "python -m train.stages"):
        return _run(args, config, stages, workdir)


def _run(args, config: ConfigDict, stages: Sequence[Stage], workdir: Path) -> int:
    """Train the stages and print how each ended; return the exit status."""
    if not args.resume:  # an invalid chain leaves no folder behind
        raise_everywhere(lambda: check_stages(config, stages))
    raise_everywhere(lambda: _write(workdir / CHAIN, config, stages, args.resume))
    results = run_stages(config, stages, workdir, resume=args.resume, quiet=args.quiet)
    if jax.process_index() == 0:
        for folder, result in zip(folders(stages, workdir), results, strict=False):
            why = f": {result.message}" if result.message else ""
            loss = f", validation loss {result.valid['loss']:.4f}" if result.valid else ""
            line = f"{folder}: {result.status} at step {result.step}{loss}{why}"
            if result.status == "halted":
                print(f"error: {line}", file=sys.stderr)
            elif not args.quiet:
                print(line)
            if result.status in ("finished", "stopped") and not args.quiet:
                from eval.after_training import after_training  # slow to import

                after_training(folder, result, show=False)
        if results[-1].status in ("halted", "interrupted"):
            resume = f"python -m train.stages --workdir={shlex.quote(str(workdir))} --resume"
            print(f"continue with\n  {resume}", file=sys.stderr)
    return EXIT_STATUS[results[-1].status]


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "train.stages",
        HELP,
        usage="python -m train.stages --config=FILE --workdir=DIR (--protocol NAME | --stages FILE)"
        " [--config.FIELD=VALUE ...] [--resume]",
    )
    add = parser.add_argument
    add(
        "--config",
        metavar="FILE",
        help="config of all stages; default with --resume: the chain's own",
    )
    add("--config.FIELD", metavar="VALUE", help="set a field of the config, in all stages")
    workdir = {"metavar": "DIR", "action": cli.ExpandPath, "required": True}
    add("--workdir", **workdir, help="folder of the chain")
    add("--data", metavar="PATH", nargs="+", help="text files, folders or globs")
    add("--protocol", choices=("identity", "thaw"))
    add("--stages", metavar="FILE")
    add("--identity", metavar="PATH", nargs="+", default=[], help="texts of the induction")
    add("--identity-format", default="metacognition", help="their format; default: %(default)s")
    groups = "parameter groups (train/optim/param_groups.py)"
    add("--freeze", metavar="GROUP", nargs="+", default=[], help=groups)
    add("--until-loss", type=float, metavar="NATS", default=7.0, help="default: %(default)s")
    add("--plan", action="store_true", help="check all stages, print their changes, and exit")
    add("--resume", action="store_true", help="continue the chain in --workdir")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _chain(args, overrides, workdir) -> tuple[ConfigDict, tuple[Stage, ...]]:
    """Return config and stages, from the command line or chain.json."""
    path = workdir / CHAIN
    stored = _read(path) if is_file(path, "--workdir=") else None
    if stored and not (args.resume or args.plan):
        raise _occupied(workdir)
    if args.config:
        config = load_config(args.config, overrides)
    elif args.resume and stored:
        config = stored[0]
        apply_overrides(config, overrides)
    elif args.resume:
        raise UserError(f"--workdir={workdir}: holds no chain to resume (no {CHAIN})")
    else:
        raise UserError("--config is missing, e.g. --config=configs/groundthink/cpu.py")
    if args.data:
        config.data.paths = tuple(args.data)
    if not (args.protocol or args.stages) and stored:
        return config, stored[1]
    stages = _stages(args)
    if stored and [s.name for s in stages] != [s.name for s in stored[1]]:
        names = ", ".join(stage.name for stage in stored[1])
        raise UserError(f"--workdir={workdir}: holds a chain of other stages: {names}")
    return config, stages


def _stages(args: argparse.Namespace) -> tuple[Stage, ...]:
    if bool(args.protocol) == bool(args.stages):
        raise UserError("give one of --protocol and --stages")
    if args.stages:
        return read_stages(args.stages)
    if args.protocol == "thaw":
        if len(args.freeze) != 1:
            raise UserError("--protocol=thaw: name the one group to freeze, e.g. --freeze mamba")
        return frozen_until_loss(args.freeze[0], args.until_loss)
    if not args.identity:
        raise UserError("--protocol=identity: name the texts, e.g. --identity Data/metacognition")
    return protocol(args.identity, args.freeze or ("embed",), args.identity_format)


def _read(path: Path) -> tuple[ConfigDict, tuple[Stage, ...]]:
    try:
        chain = decode_json(path.read_text(encoding="utf-8"))
        stages = tuple(Stage(name, with_tuples(changes)) for name, changes in chain["stages"])
        config = complete_config(with_tuples(chain["config"]), source=str(path), stored=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a chain.json of this command ({error})") from error
    return config, stages


def _write(path: Path, config: ConfigDict, stages: Sequence[Stage], resume: bool) -> None:
    if jax.process_index() != 0:
        return
    if path.exists() and not resume:  # written since it was looked for
        raise _occupied(path.parent)
    listed = [(stage.name, dict(stage.changes)) for stage in stages]
    cli.write_json(path, {"config": config.to_dict(), "stages": listed})


def _occupied(workdir: Path) -> UserError:
    return UserError(
        f"--workdir={workdir}: already holds a chain; add --resume to continue it, "
        "or name another folder"
    )


if __name__ == "__main__":
    cli.leave(main())
