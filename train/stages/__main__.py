"""`python -m train.stages`: runs in a chain, or the rest of a chain that was interrupted."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import absl.logging
import jax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.xla_flags import set_safe_flags
from train.agree import together
from train.config import apply_overrides, from_json, load_config, with_tuples
from train.memory import keep_freed_memory
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
Train in stages, each a run of its own that begins with the last weights of the one before, in
WORKDIR/1_<name>, WORKDIR/2_<name>, ... Every stage is looked at before the first is trained. Killed
at any moment, a chain goes on with --resume: stages that have ended are left as they are.

which stages (one of):
  --protocol identity --identity PATH ...   foundation, to its first plateau; induction, on those
                                            texts and with the groups of --freeze standing still
                                            (embed if none is named); alignment, everything again
  --protocol thaw --freeze GROUP            one group frozen until validation loss has come down to
                                            --until-loss, then all learn
  --stages FILE                             of your own: a Python file with get_stages(), which
                                            returns [(name, {"field": value, ...}), ...], what
                                            differs from the config in each

examples:
  python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/identity \\
      --config.data.tokenizer=byte --protocol identity --identity Data/metacognition
  python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/thaw \\
      --protocol thaw --freeze mamba --until-loss 2.5
  python -m train.stages --config=configs/groundthink/cpu.py --workdir=runs/own \\
      --stages=configs/groundthink/stages.py --plan
  python -m train.stages --workdir=runs/own --resume

exit status: as of `python -m train`, for the last stage that was run."""
NOT_BOTH = "give one of --protocol and --stages"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    set_safe_flags()
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax tells every file it writes
    logging.getLogger("absl").setLevel(logging.ERROR)
    argv = sys.argv[1:] if argv is None else argv
    args, overrides = _parser().parse_known_args(argv)
    try:
        keep_freed_memory()
        return _run(args, overrides)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was saved before is intact", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m train.stages",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="python -m train.stages --config=FILE --workdir=DIR (--protocol NAME | --stages FILE)"
        " [--config.FIELD=VALUE ...] [--resume]",
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="of all stages; with --resume, by default the chain's own")
    add("--config.FIELD", metavar="VALUE", help="set a field of the config, in all stages")
    add("--workdir", metavar="DIR", required=True, help="folder of the chain")
    add("--data", metavar="PATH", nargs="+", help="text files, folders or globs")
    add("--protocol", choices=("identity", "thaw"))
    add("--stages", metavar="FILE")
    add("--identity", metavar="PATH", nargs="+", default=[], help="texts of the induction")
    add(
        "--identity-format", default="metacognition", help="theirs, e.g. text; default: %(default)s"
    )
    add("--freeze", metavar="GROUP", nargs="+", default=[], help="groups, see train/groups.py")
    add("--until-loss", type=float, metavar="NATS", default=7.0, help="default: %(default)s")
    add("--plan", action="store_true", help="look at every stage, say what it changes, and end")
    add("--resume", action="store_true", help="go on with the chain in --workdir")
    add("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _run(args: argparse.Namespace, overrides: list[str]) -> int:
    workdir = Path(args.workdir)
    config, stages = together(lambda: _chain(args, overrides, workdir))
    if args.plan:
        check_stages(config, stages)
        for folder, stage in zip(folders(stages, workdir), stages, strict=True):
            fields = ", ".join(f"{name}={value}" for name, value in stage.changes.items())
            print(f"{folder}: {fields or 'the config as it is'}")
        return 0
    if not args.resume:  # a chain that cannot be run leaves no folder behind
        together(lambda: check_stages(config, stages))
    together(lambda: _write(workdir / CHAIN, config, stages))
    results = run_stages(config, stages, workdir, resume=args.resume, quiet=args.quiet)
    if jax.process_index() == 0:
        for folder, result in zip(folders(stages, workdir), results, strict=False):
            why = f": {result.message}" if result.message else ""
            loss = f", validation loss {result.valid['loss']:.4f}" if result.valid else ""
            _say(args, f"{folder}: {result.status} at step {result.step}{loss}{why}", result.status)
            if result.status in ("finished", "stopped"):
                _report(args, folder)
        if results[-1].status in ("halted", "interrupted"):
            resume = f"python -m train.stages --workdir={shlex.quote(str(workdir))} --resume"
            print(f"continue with\n  {resume}", file=sys.stderr)
    return {"finished": 0, "stopped": 0, "halted": 3, "interrupted": 130}[results[-1].status]


def _chain(args, overrides, workdir) -> tuple[ConfigDict, tuple[Stage, ...]]:
    """The config of all stages and what each changes, from the command line or from chain.json."""
    path = workdir / CHAIN
    stored = _read(path) if path.is_file() else None
    if stored and not (args.resume or args.plan):
        raise UserError(
            f"--workdir={workdir}: already holds a chain; add --resume to continue it, "
            "or name another folder"
        )
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
        raise UserError(f"which stages? {NOT_BOTH}")
    if args.stages:
        return read_stages(args.stages)
    if args.protocol == "thaw":
        if len(args.freeze) != 1:
            raise UserError("--protocol=thaw: name the one group that waits, e.g. --freeze mamba")
        return frozen_until_loss(args.freeze[0], args.until_loss)
    if not args.identity:
        raise UserError("--protocol=identity: name the texts, e.g. --identity Data/metacognition")
    return protocol(args.identity, args.freeze or ("embed",), args.identity_format)


def _read(path: Path) -> tuple[ConfigDict, tuple[Stage, ...]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(Stage(name, with_tuples(changes)) for name, changes in found["stages"])
        config = from_json(json.dumps(found["config"]), source=str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not what this command wrote ({error})") from error
    return config, stages


def _write(path: Path, config: ConfigDict, stages: Sequence[Stage]) -> None:
    if jax.process_index() != 0:
        return
    listed = [(stage.name, dict(stage.changes)) for stage in stages]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f"{CHAIN}.tmp")
        text = json.dumps({"config": config.to_dict(), "stages": listed}, indent=2)
        whole.write_text(text + "\n", encoding="utf-8")
        os.replace(whole, path)
    except OSError as error:
        raise UserError(f"--workdir={path.parent}: cannot be written ({error.strerror})") from error


def _say(args: argparse.Namespace, text: str, status: str) -> None:
    if status == "halted":
        print(f"error: {text}", file=sys.stderr)
    elif not args.quiet:
        print(text)


def _report(args: argparse.Namespace, folder: Path) -> None:
    """The stage's report.html; waits for nobody, hence only where there is one process."""
    if args.quiet or jax.process_count() > 1:
        return
    from eval.report import write_report

    try:
        write_report(folder)
    except UserError as error:
        print(f"no report: {error}")


if __name__ == "__main__":
    sys.exit(main())
