"""Which Python `make` takes."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def interpreter(folder, version, works=True):
    """A command python<version>: this interpreter, or a shim that only prints an error."""
    path = folder / f"python{version}"
    body = f'exec {sys.executable} "$@"' if works else "echo no such version >&2; exit 127"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def install(folder, *arguments):
    """The commands of `make install` with the interpreters of a folder first on the path."""
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    environment.pop("PYTHON", None)
    command = ["make", "-n", "-B", "-C", str(ROOT), "install", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("works, chosen", [("111", "3.13"), ("011", "3.12"), ("001", "3.11")])
def test_make_picks_the_newest_working_python(tmp_path, works, chosen):
    for version, flag in zip(("3.13", "3.12", "3.11"), works, strict=True):
        interpreter(tmp_path, version, flag == "1")
    assert f"\npython{chosen} -m venv" in install(tmp_path)


def test_make_falls_back_to_python3(tmp_path):
    for version in ("3.13", "3.12", "3.11"):
        interpreter(tmp_path, version, works=False)
    interpreter(tmp_path, "3")
    assert "\npython3 -m venv" in install(tmp_path)


def test_make_uses_the_requested_python(tmp_path):
    for version in ("3.13", "3.12", "3.11"):
        interpreter(tmp_path, version)
    output = install(tmp_path, "PYTHON=python3.11")
    assert "\npython3.11 -m venv" in output
    assert f".venv/.installed-{sys.version_info[0]}.{sys.version_info[1]}" in output
