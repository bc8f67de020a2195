"""The runner of a sweep: started runs, and the states of ended ones."""

import io
import json

import pytest
from rich.console import Console

from eval.sweep import progress, runner
from eval.sweep.__main__ import main
from eval.sweep.plan import make_plan
from eval.sweep.runner import FAILED, FINISHED, HALTED, RUNNING, STOPPED, WAITING
from jaxmodels.errors import UserError
from tests.eval.sweep.parts import FakeProcess, fake_runs, given_of, write_run
from tests.train.holding import held_elsewhere


def test_crash_does_not_affect_other_runs(tmp_path):
    runs, statuses = fake_runs(tmp_path), [-9, 0, 3, 130]
    runs[0].folder.mkdir()
    running = []

    def start(run, slot):
        assert slot in (0, 1)
        return FakeProcess(run, looks=2, status=statuses[run.seed])

    def tick():
        running.append(sum(run.state == RUNNING for run in runs))

    runner.run_all(runs, 2, start, tick, poll_seconds=0)
    assert [run.state for run in runs] == [FAILED, FINISHED, HALTED, STOPPED]
    assert runs[0].reason == "killed by signal 9"
    assert runs[2].reason == "step 7: loss is not finite"
    assert max(running) == 2  # parallel, limited to jobs


def test_progress_without_a_terminal(tmp_path, monkeypatch):
    runs, text = fake_runs(tmp_path), io.StringIO()
    write_run(runs[3])
    for run in runs:
        run.look()
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    statuses = [0, 3, -9]
    with progress.LiveProgress(Console(file=text, width=200), runs, {}) as live:

        def start(run, slot):
            return FakeProcess(run, 2, statuses[run.seed])

        runner.run_all(runs, 1, start, live.tick, poll_seconds=0)
    lines = text.getvalue().splitlines()
    assert "entry, seed 0: step 0 of 12; 1 of 4 finished" in lines[0]
    assert "entry, seed 0: 4.0000 bits (0 s)" in lines
    assert "entry, seed 1: halted: step 7: loss is not finite (0 s)" in lines
    assert "entry, seed 2: failed: killed by signal 9 (0 s)" in lines
    assert not any(line.startswith("entry, seed 3") for line in lines)  # finished before
    assert "2 of 4 finished, 1 halted, 1 failed" in lines[-1]


def test_reason_is_the_error_message_of_the_worker(tmp_path):
    (run,) = fake_runs(tmp_path, 1)
    run.folder.mkdir()
    (run.folder / "worker.log").write_text("some line\nerror: config.x: must be y\n")
    runner.run_all([run], 1, lambda run, slot: FakeProcess(run, status=2), poll_seconds=0)
    assert (run.state, run.reason) == (FAILED, "config.x: must be y")


def test_only_waiting_runs_are_started_in_order(tmp_path):
    runs, events = fake_runs(tmp_path), []
    write_run(runs[1])
    write_run(runs[2], halted=True)
    for run in runs:
        run.look()
    assert [run.state for run in runs] == [WAITING, FINISHED, HALTED, WAITING]
    runner.run_all(runs, 1, lambda run, slot: FakeProcess(run, events=events), poll_seconds=0)
    assert events == ["start entry, seed 0", "start entry, seed 3"]


def test_first_stop_terminates_the_workers(tmp_path):
    runs, events, ticks = fake_runs(tmp_path), [], []

    def start(run, slot):
        return FakeProcess(run, 99, events=events)

    def stops():
        return int(len(ticks) >= 3)

    with pytest.raises(KeyboardInterrupt):
        runner.run_all(runs, 2, start, lambda: ticks.append(0), stops, 0)
    assert [run.state for run in runs] == [STOPPED, STOPPED, WAITING, WAITING]
    assert events[2:] == ["terminate entry, seed 0", "terminate entry, seed 1"]


def test_second_stop_kills_the_workers(tmp_path):
    runs, events, count = fake_runs(tmp_path, 2), [], iter(range(9))

    def start(run, slot):
        return FakeProcess(run, 99, events=events)

    with pytest.raises(KeyboardInterrupt):
        runner.run_all(runs, 2, start, stops=lambda: next(count), poll_seconds=0)
    assert events[-2:] == ["kill entry, seed 0", "kill entry, seed 1"]
    assert [run.state for run in runs] == [STOPPED, STOPPED]


def test_error_terminates_the_workers(tmp_path):
    runs, events = fake_runs(tmp_path, 2), []

    def start(run, slot):
        if run.seed:
            raise OSError("no more processes")
        return FakeProcess(run, 99, events=events)

    with pytest.raises(OSError):
        runner.run_all(runs, 2, start, poll_seconds=0)
    assert events[-1] == "terminate entry, seed 0"


def test_interrupted_command_can_be_continued(experiment, texts, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "start_worker", interrupt)
    arguments = [f"--config={experiment}", f"--workdir={tmp_path}/m", "--data", str(texts)]
    assert main(arguments) == 130
    assert f"continue with\n  python -m eval.sweep --config={experiment}" in capsys.readouterr().err


def test_second_command_in_a_folder_is_rejected(experiment, texts, tmp_path, capsys):
    arguments = [f"--config={experiment}", f"--workdir={tmp_path}", "--data", str(texts)]
    with held_elsewhere(tmp_path, "python -m eval.sweep"):
        assert main(arguments) == 2
        assert "in use by python -m eval.sweep (host " in capsys.readouterr().err
        assert main([*arguments, "--report"]) == 0  # a report only reads
    assert "0 of 4 runs finished" in (tmp_path / "sweep.md").read_text()


def test_field_missing_from_a_stored_config_takes_its_default(texts, tmp_path):
    given = given_of({"base": {}}, model="mamba")
    sweep = make_plan(given, [f"--config.data.paths={(str(texts),)!r}"])
    (run,) = runner.runs_of(sweep, tmp_path)
    write_run(run)
    stored = json.loads((run.folder / "config.json").read_text())
    assert stored["model_config"].pop("expand") == 2
    (run.folder / "config.json").write_text(json.dumps(stored))
    run.look()
    assert run.state == FINISHED
    stored["model_config"]["expand"] = 4
    (run.folder / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"another model_config\.expand"):
        run.look()


def test_cores_are_divided_among_jobs(monkeypatch):
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda pid: {0, 1, 4, 5, 6}, raising=False)
    assert runner.cores_of(1) == [[]]
    assert runner.cores_of(2) == [[0, 1], [4, 5]]
    assert runner.cores_of(7)[5:] == [[0], [1]]
