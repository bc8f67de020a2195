"""The shell of the command lines: statuses, hints, whole files, and a reader who has gone."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxmodels import cli
from jaxmodels.errors import UserError
from jaxmodels.python_file import import_file, returned_by

MEMORY, SMALLER = "error: not enough memory: ", "; make the model or batch smaller\n"
ARRAY = "Unable to allocate 71.1 PiB for an array with shape (10000000000000000,) and data type"


@cli.command(interrupted="stopped; resume with --resume")
def main(arguments):
    """Behaves as its argument says."""
    match arguments:
        case ["mistake"]:
            raise UserError("--steps=0: give 1 or more")
        case ["two lines"]:
            raise UserError("a\nb.txt: no such file")
        case ["stop"]:
            raise KeyboardInterrupt
        case ["too large"]:
            np.empty(10**16)
        case ["exhausted"]:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no 9GB.\nBufferAssignment")
        case ["other"]:
            raise jax.errors.JaxRuntimeError("INTERNAL: no")
        case ["bug"]:
            raise ZeroDivisionError
        case ["three"]:
            return 3
    print("done")
    return None


@pytest.mark.parametrize(
    ("word", "status", "error"),
    [
        ("work", 0, ""),
        ("three", 3, ""),
        ("mistake", 2, "error: --steps=0: give 1 or more\n"),
        ("two lines", 2, "error: a\\nb.txt: no such file\n"),
        (
            "too large",
            2,
            f"{MEMORY}{ARRAY} float64{SMALLER}",
        ),
        ("exhausted", 2, f"{MEMORY}RESOURCE_EXHAUSTED: no 9GB.{SMALLER}"),
        ("stop", 130, "stopped; resume with --resume\n"),
    ],
)
def test_exit_statuses(word, status, error, capsys):
    assert main([word]) == status
    assert capsys.readouterr().err == error
    with pytest.raises(ZeroDivisionError):
        main(["bug"])
    with pytest.raises(RuntimeError, match="INTERNAL"):
        main(["other"])


def test_arguments_of_the_process_are_the_default(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prog", "three"])
    assert main() == 3


def test_work_continues_after_stdout_is_closed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom jaxmodels import cli\n"
        "@cli.command()\n"
        "def main(arguments):\n"
        "    for i in range(20000):\n"
        "        print(f'line {i}', flush=i % 2 == 0)\n"
        "    print(cli.output_lost(), file=sys.stderr)\n"
        "    return 7\n"
        "sys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    with process.stderr as errors:
        assert errors.read() == "True\n"
    assert process.wait() == 7


def test_parser_has_no_abbreviations(capsys):
    parser = cli.parser("eval.x", "Text\n  kept.", workdir="folder of a run", checkpoint=True)
    flags = parser.parse_args(["--workdir=run"])
    assert (flags.workdir, flags.checkpoint) == ("run", "best")
    with pytest.raises(SystemExit):
        parser.parse_args(["--work=run"])
    assert "python -m eval.x" in capsys.readouterr().err
    assert "Text\n  kept." in parser.format_help()


def test_a_file_to_write_has_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = cli.parser("eval.x", "")
    parser.add_argument("--json", action=cli.NewFile)
    assert parser.parse_args(["--json=~/x.json"]).json == str(tmp_path / "x.json")
    assert parser.parse_args(["--json=/dev/stdout"]).json == "/dev/stdout"
    for wrong, words in (("~/no/x.json", "no folder .*/no; create"), ("~", "a folder; name a")):
        with pytest.raises(UserError, match=f"^--json={wrong}: {words}"):
            parser.parse_args([f"--json={wrong}"])


def test_overrides_with_spaces_are_no_paths():
    parser = cli.parser("eval.x", "", workdir="run")
    parser.add_argument("--data", nargs="+")
    words = ["--data", "a b.txt", "--config.x=say: ", "--config.y", "-1", "--workdir=w", "--no"]
    flags, overrides = cli.parse_with_overrides(parser, words)
    assert (flags.data, flags.workdir) == (["a b.txt"], "w")
    assert overrides == ["--no", "--config.x=say: ", "--config.y", "-1"]


def test_did_you_mean():
    assert cli.did_you_mean("rkwv", ["rwkv", "mamba"]) == "; did you mean 'rwkv'?"
    assert cli.did_you_mean("zzz", ["rwkv", "mamba"]) == "; choose from: rwkv, mamba"
    assert cli.did_you_mean("zzz", ["", "lora"]) == "; choose from: lora"
    assert cli.did_you_mean("rkwv", []) == ""


def test_write_atomically(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    cli.write_atomically(path, "früh")
    assert path.read_bytes() == "früh".encode()
    link = tmp_path / "link.json"
    link.symlink_to(path)
    cli.write_atomically(link, b"late")
    assert link.is_symlink() and path.read_bytes() == b"late"

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cli.write_atomically(path, "new")
    assert path.read_bytes() == b"late"
    assert sorted(tmp_path.iterdir()) == [link, path]
    with pytest.raises(UserError, match=r"absent/x: cannot be written \(No such file"):
        cli.write_atomically(tmp_path / "absent" / "x", "")


def test_python_file_names_the_line(tmp_path):
    path = tmp_path / "settings.py"
    for text, message in (
        ("def get_x(:\n", "line 1: "),
        ("\n1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit('bye')\n", "line 2: SystemExit: bye"),
        ("y = 1\n", r"it defines no get_x\(\); see other.py"),
        ("def get_x(n):\n    return [][n]\n", "line 2: IndexError"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=f"^--config={path}: {message}"):
            returned_by(path, "get_x", "--config", "other.py", 5)
    path.write_text("def get_x(n):\n    return n + 1\n")
    assert returned_by(path, "get_x", "--config", "other.py", 5) == 6
    with pytest.raises(UserError, match=r"setings.py: no such file; did you mean .*settings.py\?"):
        import_file(tmp_path / "setings.py")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"notes.txt: not a Python file \(.py\) of cells"):
        import_file(tmp_path / "notes.txt", purpose="of cells")


def test_python_file_does_not_shadow_modules(tmp_path):
    before = dict(sys.modules)
    path = tmp_path / "json.py"
    path.write_text(
        "import dataclasses, json\n@dataclasses.dataclass\nclass C:\n    x: 'int' = 1\n"
    )
    assert import_file(path).C().x == 1 and import_file(path).json.dumps([]) == "[]"
    assert sys.modules == before


def test_python_file_imports_the_modules_beside_it(tmp_path):
    """From any folder; each file has the helper of its own folder, and none stays behind."""
    before, paths, finders = dict(sys.modules), list(sys.path), list(sys.meta_path)
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "parts").mkdir(parents=True)
        (folder / "parts" / "__init__.py").write_text(f"WHERE = {name!r}\n")
        (folder / "my_helper.py").write_text("import parts\n\nWHERE = parts.WHERE\n")
        path = folder / "settings.py"
        path.write_text("def get_x():\n    from my_helper import WHERE\n    return WHERE\n")
        assert returned_by(path, "get_x", "--config", "other.py") == name
        path.write_text("from my_helper import WHERE\n")
        assert import_file(path).WHERE == name
    (folder / "dataclasses.py").write_text("1 / 0\n")  # does not hide the standard library's
    assert import_file(path).WHERE == "two"
    for text, message in (
        ("\n1 / 0\n", "my_helper.py line 2: ZeroDivisionError"),
        ("\ndef f(:\n", "my_helper.py line 2: invalid syntax"),
        ("import absent_helper\n", "my_helper.py line 1: ModuleNotFoundError"),
    ):
        (folder / "my_helper.py").write_text(text)
        with pytest.raises(UserError, match=rf"two/settings.py: {message}"):
            import_file(path)
    assert sys.modules == before and sys.path == paths and sys.meta_path == finders
