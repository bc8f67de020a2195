"""Diagnostics and a text sample of every finished run (docs/systems.md, G-93)."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from eval.log import json_object
from eval.sweep.runner import FINISHED, Run, cache_variables
from jaxmodels.cli import write_atomically

DIAGNOSTICS, SAMPLE = "diagnostics.json", "sample.txt"
PROMPT, TOKENS = "The ", 300


def diagnose(runs: Sequence[Run], cache: Path, say=print, *, whole: bool = False) -> None:
    """Write missing `diagnostics.json` and `sample.txt` files of finished runs; report failures.

    Args:
      runs: all runs; unfinished ones are skipped.
      cache: folder of compiled programs.
      say: called with one line per file.
      whole: run all diagnostics instead of `eval.diagnostics --brief`, and replace brief ones.
    """
    for run in runs:
        if run.state != FINISHED:
            continue
        for name, command in commands(run.folder, whole).items():
            path = run.folder / name
            is_brief = json_object(path).get("amounts", {}).get("brief")
            if path.exists() and not (whole and is_brief):
                continue
            begun = time.perf_counter()
            if error := _write(path, command, cache):
                say(f"{run.name}: no {name} ({error})")
            else:
                say(f"{run.name}: {name} ({time.perf_counter() - begun:.0f} s)")


def commands(folder: Path, whole: bool = False) -> dict[str, list[str]]:
    """Return file -> command; the command of the sample prints it instead of writing a file."""
    workdir, path = f"--workdir={folder}", folder / DIAGNOSTICS
    diagnostics = ["eval.diagnostics", workdir, "--checkpoint=last", f"--json={path}"]
    return {
        DIAGNOSTICS: diagnostics if whole else [*diagnostics, "--brief"],
        SAMPLE: ["eval.sample", workdir, f"--prompt={PROMPT}", f"--tokens={TOKENS}"],
    }


def _write(path: Path, command: Sequence[str], cache: Path) -> str:
    """Run a command whose result is the file `path`; return the error message, or ""."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=os.environ | cache_variables(cache / "diagnostics"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return lines[-1].removeprefix("error: ")
    if path.name == SAMPLE:
        write_atomically(path, done.stdout)
    return ""
