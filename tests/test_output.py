"""Telling never stops doing: standard output and error that are closed, full, broken or ASCII."""

import errno
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmodels.output
from jaxmodels import cli
from jaxmodels.output import Output
from train.io.progress import ProgressLine


class Broken(io.StringIO):
    """A stream whose writes fail with an error number, or with none."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)

    def fileno(self):
        raise io.UnsupportedOperation("fileno")


@pytest.mark.parametrize(
    ("number", "lost"),
    [
        (errno.EPIPE, True),
        (errno.EBADF, True),
        (errno.EIO, True),
        (errno.EFBIG, True),
        (errno.ENOSPC, False),
    ],
)
def test_failing_writes_are_dropped(number, lost):
    stream = Broken(number)
    out = Output(stream)
    print("dropped", file=out, flush=True)
    assert out.lost == lost
    stream.number = 0
    print("shown", file=out)
    assert stream.getvalue() == "shown\n"
    # Nobody is left to miss what a reader that has gone did not read; a disk lost it.
    assert bool(out.finish()) == (number in (errno.EIO, errno.EFBIG, errno.ENOSPC))


def test_closed_and_absent_streams():
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        out = Output(stream)
        print("text", file=out, flush=True)
        assert out.lost
        out.finish()


def test_characters_that_cannot_be_shown_are_escaped():
    data = io.BytesIO()
    out = Output(io.TextIOWrapper(data, encoding="ascii", write_through=True))
    print("héllo 中 \udce9", file=out)
    assert data.getvalue() == b"h\\xe9llo \\u4e2d \\udce9\n"


SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from output import unfailing_output

with unfailing_output():
    file = open("file", "w")
    for i in range(3000):
        print("line", i, "é")
    print("told", file=sys.stderr)
    print("written", file=file)
    file.close()
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("redirection", "told"),
    [
        (">/dev/full", "told\nstandard output: No space left on device; part of the output"),
        ("| head -1", "told\n"),
        (">&- 2>&- <&-", ""),
    ],
)
def test_work_goes_on_whatever_standard_output_is(tmp_path, redirection, told):
    if redirection == ">/dev/full" and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    (tmp_path / "script.py").write_text(SCRIPT)
    folder = os.path.dirname(jaxmodels.output.__file__)  # without JAX, which takes seconds to load
    command = f'"{sys.executable}" script.py "{folder}"; echo $? > status'
    done = subprocess.run(
        ["sh", "-c", f"{{ {command}; }} {redirection}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert (tmp_path / "status").read_text() == "7\n", done.stderr
    # With its standard files closed, its messages do not end up in the file.
    assert (tmp_path / "file").read_text() == "written\n"
    assert done.stderr.startswith(told) and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "status", "line"),
    [
        (errno.ENOSPC, 4, "error: here/x (No space left on device)\n"),
        (errno.EDQUOT, 4, "error: here/x (Disk quota exceeded)\n"),
        (errno.ENAMETOOLONG, 2, "error: here/x (File name too long)\n"),
        (errno.EACCES, 2, "error: here/x (Permission denied)\n"),
    ],
)
def test_what_the_file_system_refuses_is_one_line(capsys, number, status, line):
    def work():
        raise OSError(number, os.strerror(number), "here/x")

    assert cli.run(work) == status
    assert capsys.readouterr().err == line


def test_a_missing_file_of_ours_keeps_its_traceback():
    with pytest.raises(FileNotFoundError):
        cli.run(lambda: open("/no such file"))


def test_progress_survives_its_reader(monkeypatch):
    """Rich would end the process."""
    monkeypatch.setattr(sys, "stdout", Broken(errno.EPIPE))
    line = ProgressLine(10, 0)
    line.say("step 1")
    line.update(1, {"loss": 2.0}, 100.0)
    line.close()


PRINTS = """
import sys
sys.path.insert(0, sys.argv[2])
from jaxmodels import cli

def main(words):
    for i in range(3000):
        print("answer", i)
    return 7 if words else 0

sys.exit(cli.command(prints=sys.argv[1] == "prints")(main)(sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("kind", "out", "status"),
    [
        ("prints", "/dev/full", 4),  # its only product is gone
        ("writes", "/dev/full", 0),  # its product is elsewhere
        ("prints", "gone", 0),  # | head
        ("prints", "closed", 0),  # >&-
        ("prints", "limited", 4),  # ulimit -f
        ("prints", "/dev/null", 0),
    ],
)
def test_status_of_a_command_whose_output_is_lost(kind, out, status, tmp_path):
    redirect = {"gone": "| head -1; exit ${PIPESTATUS[0]}", "closed": ">&-"}.get(out, f"> {out}")
    before = "ulimit -f 4; trap '' XFSZ; " if out == "limited" else ""
    root = str(Path(cli.__file__).parents[1])
    command = shlex.join([sys.executable, "-c", PRINTS, kind, root])
    ran = subprocess.run(
        ["bash", "-c", f"{before}{command} {redirect}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == status, ran
    told = "part of the output is lost" in ran.stderr
    assert told == (out in ("/dev/full", "limited")) and "Traceback" not in ran.stderr


def test_another_status_stays():
    words = [sys.executable, "-c", PRINTS, "prints", str(Path(cli.__file__).parents[1]), "x"]
    ran = subprocess.run(["bash", "-c", f"{shlex.join(words)} > /dev/full"], capture_output=True)
    assert ran.returncode == 7
