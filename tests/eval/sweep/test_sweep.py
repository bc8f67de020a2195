"""Sweeps of real runs: answers, variants, resumption after a kill, diagnostics."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from eval.log import read_log
from eval.sweep import diagnose, page, results, runner, statistics
from eval.sweep.__main__ import main
from eval.sweep.plan import make_plan
from eval.sweep.runner import FINISHED, WAITING, Run
from eval.sweep.spec import read_sweep
from tests.eval.conftest import tiny_config
from tests.eval.sweep.parts import result_of
from train.io.checkpoint import saved_steps

STEPS = 200


@pytest.fixture(scope="module")
def swept(experiment, texts, tmp_path_factory):
    """A sweep of real runs, and the arguments that made it."""
    workdir = tmp_path_factory.mktemp("sweep") / "runs"
    arguments = [f"--config={experiment}", f"--workdir={workdir}", "--data", str(texts), "--jobs=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS", raising=False)  # one device, as a user has
        assert main(arguments) == 0
    return workdir, arguments


def test_real_runs_answer_the_question(swept):
    workdir, _ = swept
    result = json.loads((workdir / "sweep.json").read_text())
    assert [(run["entry"], run["seed"]) for run in result["runs"]] == [
        ("base", 0),
        ("slow", 0),
        ("base", 1),
        ("slow", 1),
    ]
    for run in result["runs"]:
        assert (run["state"], run["step"], run["sessions"]) == (FINISHED, STEPS, 1)
        assert run["valid"]["steps"] == [50, 100, 150, 200]
        assert run["final"] == run["valid"]["values"][-1]
        assert len(run["train"]["grad_norm"]["values"]) == STEPS // 10
        assert run["device"].startswith("1 x cpu")
        assert len(run["digest"]) == 64
    assert len({run["digest"] for run in result["runs"]}) == 4
    answer = result["answers"]["rate"]
    assert answer["verdict"] == "helps"
    assert answer["difference"] < -0.2
    assert result["entries"]["base"]["parameters"] == 2 * 256 * 16 + 16 * 16
    html = (workdir / "sweep.html").read_text()
    assert "Does learning help?" in html
    assert html.count("<svg") >= 3  # the answer, the curves of tier 2, training curves
    assert "http" not in html.replace("http://www.w3.org", "")  # self-contained
    assert "| Does learning help? | yes" in (workdir / "sweep.md").read_text()


def test_second_seed_uses_the_compilation_cache(swept):
    workdir, _ = swept

    def compile_seconds(seed):
        lines = (workdir / "base" / f"seed{seed}" / "timing.jsonl").read_text().splitlines()
        return next(json.loads(x)["compile_seconds"] for x in lines if "compile_seconds" in x)

    assert any((workdir / "cache").rglob("jit_*-cache"))
    assert compile_seconds(1) < compile_seconds(0)


def test_finished_runs_are_not_repeated(swept, monkeypatch, capsys):
    workdir, arguments = swept
    before = json.loads((workdir / "sweep.json").read_text())

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(runner, "start_worker", refuse)
    assert main(arguments) == 0
    again = json.loads((workdir / "sweep.json").read_text())
    assert again["runs"] == before["runs"]
    assert "4 of 4 runs were finished before" in capsys.readouterr().out
    assert main([*arguments, "--config.batch_size=4"]) == 2
    assert "another batch_size; name another --workdir" in capsys.readouterr().err


@pytest.mark.slow
def test_variants_of_a_training_config(experiment, texts, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    path, workdir = tmp_path / "tiny.py", tmp_path / "ablations"
    head, _, _ = experiment.read_text().partition("def get_sweep")
    path.write_text(head + "def get_config():\n    return tiny_config()\n")
    arguments = [f"--config={path}", f"--workdir={workdir}", "--data", str(texts), "--steps=20"]
    arguments += ["--set", "small steps", "optimizer.learning_rate=1e-5", "--seeds", "0", "1"]
    assert main(arguments) == 0
    result = json.loads((workdir / "sweep.json").read_text())
    base, small = statistics.summaries(result)
    assert (base["entry"], base["change"]) == ("as it is", 0)
    assert small["change"] > 0.5  # it hardly learns
    for folder, name in (("as_it_is", "as it is"), ("small_steps", "small steps")):
        finals = {}
        for seed in (0, 1):
            log = read_log(workdir / folder / f"seed{seed}")
            assert (log.final["step"], log.config["seed"]) == (20, seed)
            finals[seed] = log.bits_per_byte("valid")[1][-1]
        assert results.by_seed(result, name) == finals
        assert finals[0] != finals[1]
    assert "small steps" in capsys.readouterr().out
    html = (workdir / "sweep.html").read_text()
    assert html.count("<svg") >= 3  # the answer, curves, differences
    assert "optimizer.learning_rate=1e-5" in html
    # As if one run was killed after its last checkpoint, before its final line.
    log = workdir / "as_it_is" / "seed1" / "metrics.jsonl"
    before = log.read_text()
    log.write_text("".join(before.splitlines(keepends=True)[:-1]))
    assert main(arguments) == 0
    assert log.read_text() == before
    again = json.loads((workdir / "sweep.json").read_text())
    assert [run["sessions"] for run in again["runs"]] == [1, 1, 2, 1]
    assert again["answers"] == result["answers"]


def test_killed_run_resumes_bit_for_bit(swept, experiment, texts, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    workdir, _ = swept
    sweep = make_plan(read_sweep(experiment), [f"--config.data.paths={(str(texts),)!r}"])
    run = next(run for run in runner.runs_of(sweep, tmp_path) if run.name == "base, seed 1")
    cores, cache = runner.cores_of(2)[0], workdir / "cache"

    def start_and_wait_for(step):
        worker = runner.start_worker(run, cores, cache)
        until = time.monotonic() + 60
        while max(saved_steps(run.folder), default=0) < step and time.monotonic() < until:
            assert worker.poll() is None, (run.folder / "worker.log").read_text()
            time.sleep(0.005)
        return worker

    start_and_wait_for(50).kill()  # without saving
    run.look()
    assert run.state == WAITING
    worker = start_and_wait_for(100)
    worker.stdin.close()  # as if the parent was killed: the worker saves and stops
    assert worker.wait(60) == 130
    assert not run.log().final
    runner.run_all([run], 1, lambda run, slot: runner.start_worker(run, cores, cache))
    assert run.state == FINISHED
    log = (run.folder / "worker.log").read_text()
    assert log.count("resuming from step") == 2
    whole = workdir / "base" / "seed1" / "metrics.jsonl"
    assert (run.folder / "metrics.jsonl").read_bytes() == whole.read_bytes()


def test_diagnose_writes_missing_files(swept, tmp_path, monkeypatch):
    workdir, _ = swept
    shutil.copytree(workdir / "base" / "seed0", tmp_path / "seed0")
    run = Run("base", 0, tiny_config(), tmp_path / "seed0", state=FINISHED)
    unfinished = Run("base", 1, tiny_config(), tmp_path / "seed1")
    lines, commands = [], []

    def fake(command, **kwargs):
        commands.append((command[2], "--brief" in command))
        if command[2] == "eval.diagnostics":
            path = next(x.removeprefix("--json=") for x in command if x.startswith("--json="))
            found = {"amounts": {"brief": "--brief" in command}, "gates": []}
            Path(path).write_text(json.dumps(found))
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, 2, "", "some line\nerror: it is gone\n")

    monkeypatch.setattr(subprocess, "run", fake)
    diagnose.diagnose([run, unfinished], tmp_path, lines.append)
    assert lines == [
        "base, seed 0: diagnostics.json (0 s)",
        "base, seed 0: no sample.txt (it is gone)",
    ]
    (run.folder / "sample.txt").write_text("The \x07people")
    brief, whole = ("eval.diagnostics", True), ("eval.diagnostics", False)
    assert commands == [brief, ("eval.sample", False)]
    diagnose.diagnose([run], tmp_path, lines.append)  # existing files are kept
    diagnose.diagnose([run], tmp_path, lines.append, whole=True)
    diagnose.diagnose([run], tmp_path, lines.append, whole=True)
    diagnose.diagnose([run], tmp_path, lines.append)
    assert commands[2:] == [whole]
    found = results.run_result(run, {})
    assert found["diagnostics"]["amounts"] == {"brief": False}
    result = result_of({"base": [1.0, 2.0]}, {})
    result["runs"][0] |= {"diagnostics": found["diagnostics"], "sample": found["sample"]}
    assert "The \ufffdpeople" in page.compose(result)


def test_report_with_diagnostics_does_not_train(swept, tmp_path, monkeypatch):
    """Run the real diagnostics on the one run that lacks them."""
    workdir, arguments = swept
    copy = tmp_path / "runs"
    shutil.copytree(workdir, copy)
    for folder in copy.glob("*/seed*"):
        (folder / "sample.txt").write_text("said")
        if folder != copy / "base" / "seed1":
            (folder / "diagnostics.json").write_text("{}")

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(runner, "start_worker", refuse)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    arguments = [x.replace(str(workdir), str(copy)) for x in arguments]
    assert main([*arguments, "--report", "--diagnostics"]) == 0
    found = json.loads((copy / "base/seed1/diagnostics.json").read_text())
    assert (found["step"], found["amounts"]["brief"]) == (STEPS, True)
    assert {"identity", "collapse"}.isdisjoint(found) and len(found["missing"]) == 2
    assert found["probes"].keys() == {"symbols", "chance", "recall", "tau", "tau_probe"}
    kept = json.loads((copy / "sweep.json").read_text())["runs"]
    assert [len(run["diagnostics"]) > 0 for run in kept] == [False, False, True, False]
    html = (copy / "sweep.html").read_text()
    assert "3 finished runs have no diagnostics" in html
    assert "useful memory at 64 tokens, linear probe" in html
