"""Paths as people type them: ~, names that are too long, closed folders, no home."""

import errno
import os
import pathlib

import pytest

from jaxmodels import cli, paths
from jaxmodels.errors import UserError
from jaxmodels.writing import written_whole

LONG = "x" * 300


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and no entry of the user in the system's list."""
    monkeypatch.delenv("HOME")

    def unknown(*_):
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.user_path("~/runs/x") == tmp_path / "runs/x"
    assert paths.user_path("a/~/b") == pathlib.Path("a/~/b")
    assert paths.user_path("~$notes.txt") == pathlib.Path("~$notes.txt")
    flags = cli.parser("eval.x", "", workdir="run").parse_args(["--workdir=~/runs/x"])
    assert flags.workdir == str(tmp_path / "runs/x")
    cli.write_atomically("~/result.txt", "here")
    assert (tmp_path / "result.txt").read_text() == "here"


def test_without_a_home(homeless):
    with pytest.raises(UserError, match=r"^--workdir=~/x: the home folder is unknown"):
        cli.parser("eval.x", "", workdir="run").parse_args(["--workdir=~/x"])
    assert paths.user_path("~$notes.txt") == pathlib.Path("~$notes.txt")


def test_paths_that_cannot_be_looked_at(tmp_path, monkeypatch):
    assert not paths.exists(tmp_path / "absent") and not paths.is_dir(tmp_path / "absent")
    assert paths.is_dir(tmp_path) and not paths.is_file(tmp_path)
    (tmp_path / "file").write_text("")
    assert not paths.exists(tmp_path / "file" / "inside")
    with pytest.raises(UserError, match=r"^--data=xxx.*\.\.\.x+: File name too long"):
        paths.is_file(pathlib.Path(LONG), "--data=")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="loop: Too many levels of symbolic links"):
        paths.is_file(tmp_path / "loop")
    with pytest.raises(UserError, match=r"^--data='': a path must not be empty"):
        paths.user_path("", "--data=")
    with pytest.raises(UserError, match="must not contain NUL"):
        paths.user_path("a\0b")

    def refused(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "stat", refused)  # the superuser may enter any folder
    with pytest.raises(UserError, match="x: Permission denied; a folder on the way may not be"):
        paths.is_dir(pathlib.Path("x"))


@pytest.mark.parametrize("length", [250, 300])
def test_long_names_of_written_files(tmp_path, length):
    path = tmp_path / ("x" * length)
    if length < 256:
        cli.write_atomically(path, "whole")
        with written_whole(tmp_path / ("y" * length)) as temporary:
            temporary.write_text("whole")
        assert len(list(tmp_path.iterdir())) == 2
        return
    with pytest.raises(UserError, match="File name too long"):
        cli.write_atomically(path, "")
    with pytest.raises(UserError, match="File name too long"), written_whole(path) as temporary:
        temporary.write_text("")
    assert not list(tmp_path.iterdir())


def test_a_command_that_is_no_unicode_is_written(tmp_path):
    cli.write_atomically(tmp_path / "report.html", "--data caf\udce9")
    assert (tmp_path / "report.html").read_bytes() == b"--data caf\\udce9"
