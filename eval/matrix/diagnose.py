"""A look into every finished run: its diagnostics and a sample of its text, once each (G-93)."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.matrix.runner import FINISHED, Run

DIAGNOSTICS, SAMPLE = "diagnostics.json", "sample.txt"
PROMPT, TOKENS = "The ", 300


def diagnose(runs: Sequence[Run], cache: Path, say=print) -> None:
    """Writes `diagnostics.json` and `sample.txt` into the folders that lack them.

    What cannot be written is said, and missing in the report.

    Args:
      runs: those that are not finished are passed over.
      cache: folder of compiled programs.
      say: told what is done.
    """
    for run in runs:
        if run.state != FINISHED:
            continue
        for name, command in commands(run.folder).items():
            path = run.folder / name
            if path.exists():
                continue
            if error := _write(path, command, cache):
                say(f"{run.name}: no {name} ({error})")
            else:
                say(f"{run.name}: {name}")


def commands(folder: Path) -> dict[str, list[str]]:
    """File -> the command that makes it; the sample's prints it."""
    workdir, whole = f"--workdir={folder}", folder / f"{DIAGNOSTICS}.new"
    return {
        DIAGNOSTICS: ["eval.diagnostics", workdir, "--checkpoint=last", f"--json={whole}"],
        SAMPLE: ["eval.sample", workdir, f"--prompt={PROMPT}", f"--tokens={TOKENS}"],
    }


def _write(path: Path, command: Sequence[str], cache: Path) -> str:
    """Runs a command; returns what went wrong, or nothing."""
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache.absolute() / "diagnostics"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    whole = path.with_name(path.name + ".new")
    if done.returncode == 0 and path.name == SAMPLE:
        whole.write_text(done.stdout, encoding="utf-8")
    if done.returncode or not whole.exists():
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return lines[-1].removeprefix("error: ")
    whole.replace(path)
    return ""
