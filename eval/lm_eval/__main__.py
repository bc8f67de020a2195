"""Evaluate a model on tasks of the Language Model Evaluation Harness (PyPI `lm-eval`).

    python -m eval.lm_eval --workdir=RUN_OR_FOLDER --tasks NAME_OR_FILE ... [--num-fewshot N]
                           [--limit N] [--batch-size 16] [--chat] [--seed N] [--out FILE]
                           [--checkpoint best|last|STEP]

A task is one that lm-eval knows by name, which loads its data from where it is published, or a YAML
file in lm-eval's format. --workdir is a run's folder, or one of converted weights with a tokenizer
(docs/convert.md). Prints lm-eval's table; FILE, by default lm_eval.json in the folder, holds the
scores with command, seeds, versions, device, wall time and the tokens read. docs/scoring.md says
how texts are split and scored.
"""

import argparse
import functools
import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb

from jaxmodels import cli
from jaxmodels.errors import DISK, UserError
from jaxmodels.extras import import_extra
from jaxmodels.paths import is_file, user_path

_NAME = re.compile(r"^(?:task|group):\s*['\"]?([\w.+-]+)['\"]?\s*(?:#.*)?$", re.MULTILINE)
KEPT = ("results", "groups", "versions", "n-shot", "n-samples", "higher_is_better")


@cli.command()
def main(arguments: list[str]) -> None:
    """Score the tasks of a command line and print the table."""
    parser = cli.parser("eval.lm_eval", __doc__, workdir=cli.RUN, checkpoint=True)
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="names or files")
    parser.add_argument("--num-fewshot", type=int, metavar="N", help="examples before a question")
    parser.add_argument("--limit", type=int, metavar="N", help="first N questions of a task")
    parser.add_argument("--batch-size", type=int, default=16, help="most rows at a time")
    parser.add_argument("--chat", action="store_true", help="ask by the folder's chat template")
    parser.add_argument("--seed", type=int, default=0, help="of few-shot examples and answers")
    parser.add_argument("--out", action=cli.NewFile, metavar="FILE", help="JSON to write")
    flags = parser.parse_args(arguments)
    for name, least in (("num_fewshot", 0), ("limit", 1), ("batch_size", 1)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}={value}: give {least} or more")
    import_extra("lm_eval")
    if not 0 <= flags.seed < 2**32:
        raise UserError(f"--seed={flags.seed}: give 0 to 2^32 - 1")
    names, files = _tasks(flags.tasks)
    result = _evaluated(flags, names, files)
    result["command"] = shlex.join(["python", "-m", "eval.lm_eval", *arguments])
    out = Path(flags.out or user_path(flags.workdir) / "lm_eval.json")
    cli.write_json(out, result)


def _tasks(given: list[str]) -> tuple[list[str], dict[str, Path]]:
    """Return (names of tasks, name -> file, if it has one); raise UserError for a faulty file."""
    names, files = [], {}
    for task in given:
        if not task.endswith((".yaml", ".yml")):
            names.append(task)
            continue
        path = user_path(task, "--tasks ").absolute()
        if not is_file(path):
            raise UserError(f"--tasks {task}: no such file")
        found = _NAME.search(path.read_text(encoding="utf-8", errors="replace"))
        if found is None:
            raise UserError(f"--tasks {task}: no line `task: NAME` in this file")
        names.append(found[1])
        files[found[1]] = path
    return names, files


def _known(names: list[str], files: dict[str, Path]):
    """Return lm-eval's `TaskManager`; raise UserError for a task that it would not read, by name.

    It reads all files of a folder, and of two tasks of one name either.
    """
    from lm_eval.tasks import TaskManager

    # Files are enough where all tasks are files; else lm-eval reads the list of its own.
    folders = list({str(path.parent): None for path in files.values()})
    tasks = TaskManager(include_path=folders or None, include_defaults=not set(names) <= {*files})
    for name in names:
        known = name in files or tasks.match_tasks([name])
        if not known:
            raise UserError(f"--tasks {name}: lm-eval knows no such task; name a file or a task")
        if name not in files:
            continue
        entry = tasks.task_index.get(name)
        if entry is None:
            raise UserError(f"--tasks {files[name]}: lm-eval cannot read this file as a task")
        if Path(entry.yaml_path).resolve() != files[name].resolve():
            raise UserError(
                f"--tasks {files[name]}: {entry.yaml_path} is a task {name!r}, too; rename one"
            )
    return tasks


def _run(work: Callable[[], dict], names: list[str]) -> dict:
    """Return `work()`; raise UserError for what a task is to blame for: its file or its data."""
    from eval.lm_eval import adapter

    try:
        return work()
    except Exception as error:
        ours = (frame.filename == adapter.__file__ for frame in extract_tb(error.__traceback__))
        full = isinstance(error, OSError) and error.errno in DISK
        if isinstance(error, UserError | MemoryError) or full or any(ours):
            raise
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"--tasks {' '.join(names)}: lm-eval cannot run them ({why})") from error


def _evaluated(flags: argparse.Namespace, names: list[str], files: dict[str, Path]) -> dict:
    import lm_eval
    from lm_eval.utils import make_table

    from eval.lm_eval.adapter import Adapter
    from eval.log import device_description, versions
    from eval.run import load_trained
    from jaxmodels.data.chat.template import read_template
    from jaxmodels.data.tokenizers.folder import endings

    tasks = _known(names, files)
    trained, tokenizer = load_trained(flags.workdir, flags.checkpoint, flags.base)
    folder = user_path(flags.workdir)
    template = read_template(folder) if flags.chat else None
    if flags.chat and template is None:
        raise UserError(f"--chat: no chat template in {folder} (docs/convert.md)")
    model = Adapter(
        trained.model,
        tokenizer,
        end_tokens=endings(folder, tokenizer)[0],
        template=template,
        name=folder.absolute().name,
        batch_size=flags.batch_size,
        seed=flags.seed,
    )
    start = time.perf_counter()
    evaluate = functools.partial(
        lm_eval.simple_evaluate,
        model,
        tasks=names,
        num_fewshot=flags.num_fewshot,
        limit=flags.limit,
        log_samples=False,
        apply_chat_template=flags.chat,
        task_manager=tasks,
        random_seed=flags.seed,
        numpy_random_seed=flags.seed,
        torch_random_seed=flags.seed,
        fewshot_random_seed=flags.seed,
    )
    found = _run(evaluate, names)
    print(make_table(found))
    return {
        **{name: json.loads(json.dumps(found.get(name), default=str)) for name in KEPT},
        "step": trained.step,
        "seed": flags.seed,
        "limit": flags.limit,
        "chat": flags.chat,
        "batch_size": flags.batch_size,
        "tokens_read_for_scores": model.scorer.tokens_read,
        "seconds": round(time.perf_counter() - start, 1),
        "device": device_description(),
        "versions_of": versions() | {"lm_eval": lm_eval.__version__},
    }


if __name__ == "__main__":
    sys.exit(main())
