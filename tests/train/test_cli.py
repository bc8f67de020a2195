"""`python -m train`: what a user sees, above all when something is wrong with what they gave."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

import train.loop
from tests.train.corpus import small_text
from tests.train.holding import held_elsewhere
from train.__main__ import main
from train.config.schema import FIELDS

CONFIG = """
from tests.train.toy import toy_config
def get_config():
    return toy_config(steps=6, eval_every=6, checkpoint_every=3, log_every=2)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a config and a text, as current directory."""
    (tmp_path / "toy.py").write_text(CONFIG)
    (tmp_path / "small.txt").write_text(small_text())
    (tmp_path / "second.txt").write_text(small_text(3000).upper())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *argv):
    """The one line that a wrong command is answered with."""
    assert main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    return err


LONG = "x" * 300
GOOD = ("--config=toy.py", "--workdir=run", "--data", "small.txt")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--config=toi.py", "--workdir=run"), "toi.py: no such file; did you mean toy.py?"),
        (("--workdir=run",), "--config is missing"),
        (("--workdir=run", "--resume"), "holds no run to resume"),
        ((*GOOD, "--config.step=7"), "--config.step: unknown field; did you mean 'steps'?"),
        ((*GOOD, "--config.steps=seven"), "config.steps: expected an integer, got 'seven' (str)"),
        ((*GOOD, "--resum"), "unknown argument '--resum'"),
        ((*GOOD, "--config.batch_size=9"), "9 rows do not divide over 8 devices"),
        ((*GOOD, "--config.model=prernc"), "'prernc'"),
        ((*GOOD, "--config.model=nowhere:create"), "cannot import 'nowhere:create'"),
        ((*GOOD, "--config.seq_len=100000"), "too short"),
        (("--config=nothing.py", "--workdir=run"), "expected a ConfigDict, got None"),
        (("--config=raises.py", "--workdir=run"), "raises.py: line 1: KeyError: 'x'"),
        (("--workdir=stored", "--resume"), "config.json: not a run's config ('utf-8' codec"),
        ((*GOOD, "--config.data.valid_fraction=nan"), "valid_fraction"),
        (
            (*GOOD, "--config.parallel=shard_map", "--config.mesh.fsdp=8"),
            "fsdp x tensor takes all 8 devices",
        ),
        ((*GOOD, "--num-processes=2", "--process-id=1"), "--coordinator is missing"),
        (
            (*GOOD, "--coordinator=host", "--num-processes=2", "--process-id=0"),
            "write HOST:PORT",
        ),
        (
            (*GOOD, "--coordinator=host:1", "--num-processes=2", "--process-id=2"),
            "--process-id must be 0 .. 1",
        ),
        (
            (*GOOD, "--coordinator=host:1", "--num-processes=0", "--process-id=0"),
            "--num-processes=0: give at least 1",
        ),
        (
            ("--config=toy.py", "--workdir=gs://bucket/run"),
            "a folder on a disk that all hosts share",
        ),
        (("--config=toy.py", "--workdir=run", "--data", "smal.txt"), "smal.txt"),
        (("--config=toy.py", "--workdir=run", "--data", "~$a.txt"), "~$a.txt: no such file"),
        (("--config=toy.py", "--workdir=run", "--data", ""), "'': a path must not be empty"),
        (("--config=toy.py", "--workdir="), "--workdir='': a path must not be empty"),
        (("--config=toy.py", "--workdir=run", "--data", "a\nb"), "a\\nb: no such file"),
        ((*GOOD, "--data", "small.txt", "--config.model=no model"), "unknown model 'no model'"),
        (("--config=toy.py", "--workdir=run", "--data", LONG), "File name too long"),
        ((*GOOD, f"--workdir={LONG}"), "File name too long"),
        ((*GOOD, f"--config={LONG}"), "File name too long"),
        ((f"--workdir={LONG}", "--resume"), "File name too long"),
        (("--config=toy.py", "--workdir=run", "--data", "empty.txt"), "empty.txt"),
        (("--config=toy.py", "--workdir=run", "--data", "small.txt", "binary.txt"), "binary.txt"),
        (("--config=toy.py", "--workdir=run", "--data", "latin.txt"), "latin.txt"),
        (
            ("--config=toy.py", "--workdir=small.txt/run", "--data", "small.txt"),
            "--workdir=small.txt/run",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_invalid_input_is_a_one_line_error(here, capsys, argv, message):
    (here / "empty.txt").write_text("")
    (here / "nothing.py").write_text("def get_config():\n    pass\n")
    (here / "binary.txt").write_bytes(bytes(range(256)) * 40)
    (here / "raises.py").write_text("raise KeyError('x')\n")
    (here / "stored").mkdir()
    (here / "stored" / "config.json").write_bytes(b'{"model": "caf\xe9"}')
    (here / "latin.txt").write_bytes("first line\nd\u00e9j\u00e0 vu\n".encode("latin-1") * 50)
    assert message in refused(capsys, *argv)
    assert not (here / "run").exists()


def test_two_paths_and_the_printed_commands(here, capsys):
    assert main([*GOOD, "second.txt", "--config.log_every=3"]) == 0
    out = capsys.readouterr().out
    assert "validation: loss" in out
    commands = re.findall(r"^  (python -m .*)$", out, re.MULTILINE)
    assert len(commands) == 3
    assert commands[0] == "python -m train --workdir=run --resume --config.steps=12"
    config = json.loads((here / "run/config.json").read_text())
    assert config["data"]["paths"] == ["small.txt", "second.txt"]

    assert "already holds a run; add --resume" in refused(capsys, *GOOD)
    assert "config.model_config.width" in refused(
        capsys, *GOOD, "second.txt", "--resume", "--config.model_config.width=4"
    )
    assert "not the text" in refused(capsys, *GOOD, "--resume")
    # The first command of the three, as printed.
    assert main([*commands[0].split()[3:], "--quiet"]) == 0
    assert json.loads((here / "run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 12


def test_a_folder_in_use_is_refused_under_any_name(here, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    home = ("--config=~/toy.py", "--workdir=~/run", "--data", "~/small.txt")
    with held_elsewhere(here / "run"):
        for more in ([], ["--resume"]):
            err = refused(capsys, *home, *more)
            assert f"--workdir={here}/run: in use by python -m train (host " in err
            assert f"pid {os.getpid()}, started 0 s ago); wait for it, stop it, or name" in err
    assert not (here / "~").exists() and not (here / "run").exists()


def test_nonfinite_loss_exits_with_3(here, capsys):
    assert main([*GOOD, "--config.model_config.poison_step=500"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert (
        "step 4: gradient of cell/bias is not finite; stopped, the state after step 3 is kept"
        in err
    )
    assert "python -m train --workdir=run --resume --config.optimizer.learning_rate=0.005" in err


def test_ctrl_c_before_training_prints_no_traceback(here, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train.loop, "open_task", interrupted)
    assert main(list(GOOD)) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
    ids=["ctrl-c", "sigterm", "terminal closed"],
)
def test_ctrl_c_saves_and_prints_the_resume_command(here, capsys, number):
    root = os.path.dirname(os.path.dirname(os.path.abspath(train.loop.__file__)))
    command = [sys.executable, "-W", "error", "-m", "train", *GOOD, "--config.steps=100000"]
    command += ["--config.checkpoint_every=100000", "--config.eval_every=0"]
    environment = os.environ | {"PYTHONPATH": root, "XLA_FLAGS": ""}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # XLA may warn when it loads a program
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = here / "run" / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("\n") > 3):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err == ""
    step = int(re.search(r"stopped after step (\d+), which is saved", out).group(1))
    assert (here / "run" / "checkpoints" / str(step)).is_dir()
    assert "python -m train --workdir=run --resume" in out
    further = [f"--config.steps={step + 2}", "--quiet"]
    assert main(["--workdir=run", "--resume", *further]) == 0
    assert json.loads(metrics.read_text().splitlines()[-1])["step"] == step + 2


def test_help_lists_options_and_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for word in ("--config=FILE", "--workdir", "--data", "--resume", "examples", "exit status"):
        assert word in out
    examples = re.findall(r"^  python -m train .*$", out, re.M)
    assert len(examples) == 4 and all("--workdir=" in line for line in examples)
    assert out.count("python -m train --") == 1 + len(examples)


def test_help_config_lists_every_field(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help-config"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--config.optimizer.learning_rate (default 0.003; may change on --resume)" in out
    assert out.count("--config.") == len(FIELDS)
