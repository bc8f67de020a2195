"""The matrix: its plan, its schedule, what it does when killed, and the arithmetic of answers."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from eval.matrix import answers, diagnose, page, results, runner
from eval.matrix.__main__ import main
from eval.matrix.answers import compare
from eval.matrix.match import matched_value
from eval.matrix.plan import make_plan, read_matrix
from eval.matrix.runner import FAILED, FINISHED, HALTED, RUNNING, STOPPED, WAITING, Run
from jaxmodels.errors import UserError
from tests.eval.conftest import tiny_config
from train.checkpoint import saved_steps
from train.config import to_json

STEPS = 200
EXPERIMENT = """\
from tests.eval.conftest import tiny_config

def get_matrix(preset):
    config = tiny_config(eval_every=50, checkpoint_every=50, log_every=10)
    config.optimizer.learning_rate = 0.002
    return {
        "config": config,
        "steps": 200,
        "seeds": (0, 1),
        "entries": {
            "base": {"group": "tier1", "says": "as it is"},
            "slow": {
                "group": "tier2",
                "says": "hardly learns",
                "changes": {"optimizer.learning_rate": 1e-6},
            },
        },
        "questions": {"rate": ("base", "slow", "Does learning help?")},
    }
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "tiny.py"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture(scope="module")
def matrix_run(experiment, texts, tmp_path_factory):
    """A matrix of real runs, and the arguments that made it."""
    workdir = tmp_path_factory.mktemp("matrix") / "runs"
    arguments = [f"--config={experiment}", f"--workdir={workdir}", "--data", str(texts), "--jobs=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("XLA_FLAGS", raising=False)  # one device, as a user has
        assert main(arguments) == 0
    return workdir, arguments


def test_real_runs_answer_the_question(matrix_run):
    workdir, _ = matrix_run
    result = json.loads((workdir / "matrix.json").read_text())
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
    html = (workdir / "matrix.html").read_text()
    assert "Does learning help?" in html
    assert html.count("<svg") >= 3  # the answer, the curves of tier 2, training curves
    assert "http" not in html.replace("http://www.w3.org", "")  # self-contained
    assert "| Does learning help? | yes" in (workdir / "matrix.md").read_text()


def test_the_second_seed_compiles_nothing_anew(matrix_run):
    workdir, _ = matrix_run

    def compile_seconds(seed):
        lines = (workdir / "base" / f"seed{seed}" / "timing.jsonl").read_text().splitlines()
        return next(json.loads(x)["compile_seconds"] for x in lines if "compile_seconds" in x)

    assert any((workdir / "cache").rglob("jit_*-cache"))
    assert compile_seconds(1) < compile_seconds(0)


def test_what_is_finished_is_not_run_again(matrix_run, monkeypatch, capsys):
    workdir, arguments = matrix_run
    before = json.loads((workdir / "matrix.json").read_text())

    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(runner, "start_worker", refuse)
    assert main(arguments) == 0
    again = json.loads((workdir / "matrix.json").read_text())
    assert again["runs"] == before["runs"]
    capsys.readouterr()
    assert main([*arguments, "--config.batch_size=4"]) == 2
    assert "another batch_size; name another --workdir" in capsys.readouterr().err


def test_killed_and_orphaned_a_run_ends_as_if_undisturbed(
    matrix_run, experiment, texts, tmp_path, monkeypatch
):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    workdir, _ = matrix_run
    given = read_matrix(experiment, "cpu")
    matrix = make_plan(given, [f"--config.data.paths={(str(texts),)!r}"])
    run = runner.runs_of(matrix, tmp_path, ["base"])[1]
    cores, cache = runner.cores_of(2)[0], workdir / "cache"

    def start_and_wait_for(step):
        worker = runner.start_worker(run, cores, cache)
        until = time.monotonic() + 60
        while max(saved_steps(run.folder), default=0) < step and time.monotonic() < until:
            assert worker.poll() is None, (run.folder / "worker.log").read_text()
            time.sleep(0.005)
        return worker

    start_and_wait_for(50).kill()  # no time to save
    run.look()
    assert run.state == WAITING
    worker = start_and_wait_for(100)
    worker.process.stdin.close()  # as when the parent was killed: it saves and stops
    assert worker.process.wait(60) == 130
    assert not run.log().final
    runner.run_all([run], 1, lambda run, slot: runner.start_worker(run, cores, cache))
    assert run.state == FINISHED
    said = (run.folder / "worker.log").read_text()
    assert said.count("resuming from step") == 2
    whole = workdir / "base" / "seed1" / "metrics.jsonl"
    assert (run.folder / "metrics.jsonl").read_bytes() == whole.read_bytes()


def test_a_look_into_a_finished_run(matrix_run, tmp_path, monkeypatch):
    workdir, _ = matrix_run
    run = Run("base", 0, tiny_config(), workdir / "base" / "seed0", state=FINISHED)
    unfinished = Run("base", 1, tiny_config(), workdir / "base" / "seed1")
    said, asked = [], []

    def fake(command, **kwargs):
        asked.append(command[2])
        if command[2] == "eval.diagnostics":
            path = next(x.removeprefix("--json=") for x in command if x.startswith("--json="))
            Path(path).write_text('{"gates": {"G1": "pass"}, "tau": 3.25, "curve": [1, 2]}')
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.CompletedProcess(command, 2, "", "some line\nerror: it is gone\n")

    monkeypatch.setattr(subprocess, "run", fake)
    diagnose.diagnose([run, unfinished], tmp_path, said.append)
    assert said == ["base, seed 0: diagnostics.json", "base, seed 0: no sample.txt (it is gone)"]
    diagnose.diagnose([run], tmp_path, said.append)
    assert asked == ["eval.diagnostics", "eval.sample", "eval.sample"]  # what is there stays
    (run.folder / "sample.txt").write_text("The \x07people")
    found = results._one(run)
    assert list(page.scalars(found["diagnostics"])) == [("gates.G1", "pass"), ("tau", "3.25")]
    result = result_of({"base": [1.0, 2.0]}, {})
    result["runs"][0] |= {"diagnostics": found["diagnostics"], "sample": found["sample"]}
    html = page.compose(result)
    assert "gates.G1" in html
    assert "The \ufffdpeople" in html


class FakeProcess:
    """Ends with a status after so many looks; writes into the run's folder like a worker."""

    def __init__(self, run, looks=1, status=0, events=None):
        self.run, self.looks, self.status = run, looks, status
        self.events = [] if events is None else events
        self.events.append(f"start {run.name}")

    def poll(self):
        self.looks -= 1
        if self.looks > 0:
            return None
        if self.status in (0, 3):
            write_run(self.run, halted=self.status == 3)
        return self.status

    def terminate(self):
        self.events.append(f"terminate {self.run.name}")
        self.looks, self.status = 2, 130

    def kill(self):
        self.events.append(f"kill {self.run.name}")


def write_run(run, halted=False, values=(5.0, 4.0)):
    """The files of a run that ended."""
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "config.json").write_text(to_json(run.config))
    rows = [
        {"step": 6 * (i + 1), "split": "valid", "next_token": v * np.log(2), "bits_per_byte": v}
        for i, v in enumerate(values)
    ]
    end = {"final": True, "step": 12, "digest": "d"}
    if halted:
        end = {"step": 7, "split": "stop", "reason": "step 7: loss is not finite"}
    lines = [json.dumps(line) for line in (*rows, end)]
    (run.folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def fake_runs(tmp_path, count=4):
    return [
        Run("entry", seed, tiny_config(seed=seed), tmp_path / str(seed)) for seed in range(count)
    ]


def test_a_crash_costs_only_its_run(tmp_path):
    runs, statuses = fake_runs(tmp_path), [-9, 0, 3, 130]
    runs[0].folder.mkdir()
    most = []

    def start(run, slot):
        assert slot in (0, 1)
        return FakeProcess(run, looks=2, status=statuses[run.seed])

    def tick():
        most.append(sum(run.state == RUNNING for run in runs))

    runner.run_all(runs, 2, start, tick, poll_seconds=0)
    assert [run.state for run in runs] == [FAILED, FINISHED, HALTED, STOPPED]
    assert runs[0].reason == "killed by signal 9"
    assert runs[2].reason == "step 7: loss is not finite"
    assert max(most) == 2  # side by side, never more


def test_a_mistake_of_the_input_is_told_in_its_own_words(tmp_path):
    (run,) = fake_runs(tmp_path, 1)
    run.folder.mkdir()
    (run.folder / "worker.log").write_text("some line\nerror: config.x: must be y\n")
    runner.run_all([run], 1, lambda run, slot: FakeProcess(run, status=2), poll_seconds=0)
    assert (run.state, run.reason) == (FAILED, "config.x: must be y")


def test_only_what_is_waiting_is_started_and_in_order(tmp_path):
    runs, events = fake_runs(tmp_path), []
    write_run(runs[1])
    write_run(runs[2], halted=True)
    for run in runs:
        run.look()
    assert [run.state for run in runs] == [WAITING, FINISHED, HALTED, WAITING]
    runner.run_all(runs, 1, lambda run, slot: FakeProcess(run, events=events), poll_seconds=0)
    assert events == ["start entry, seed 0", "start entry, seed 3"]


def test_ctrl_c_lets_the_workers_save(tmp_path):
    runs, events, ticks = fake_runs(tmp_path), [], []

    def start(run, slot):
        return FakeProcess(run, 99, events=events)

    def wishes():
        return int(len(ticks) >= 3)

    with pytest.raises(KeyboardInterrupt):
        runner.run_all(runs, 2, start, lambda: ticks.append(0), wishes, 0)
    assert [run.state for run in runs] == [STOPPED, STOPPED, WAITING, WAITING]
    assert events[2:] == ["terminate entry, seed 0", "terminate entry, seed 1"]


def test_a_second_ctrl_c_ends_them(tmp_path):
    runs, events, count = fake_runs(tmp_path, 2), [], iter(range(9))

    def start(run, slot):
        return FakeProcess(run, 99, events=events)

    with pytest.raises(KeyboardInterrupt):
        runner.run_all(runs, 2, start, wishes=lambda: next(count), poll_seconds=0)
    assert events[-2:] == ["kill entry, seed 0", "kill entry, seed 1"]
    assert [run.state for run in runs] == [STOPPED, STOPPED]


def test_no_worker_is_left_behind_by_an_error(tmp_path):
    runs, events = fake_runs(tmp_path, 2), []

    def start(run, slot):
        if run.seed:
            raise OSError("no more processes")
        return FakeProcess(run, 99, events=events)

    with pytest.raises(OSError):
        runner.run_all(runs, 2, start, poll_seconds=0)
    assert events[-1] == "terminate entry, seed 0"


def test_ctrl_c_on_the_command_says_how_to_go_on(experiment, texts, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "start_worker", interrupt)
    arguments = [f"--config={experiment}", f"--workdir={tmp_path}/m", "--data", str(texts)]
    assert main(arguments) == 130
    assert f"go on with\n  python -m eval.matrix --config={experiment}" in capsys.readouterr().err


def test_two_commands_in_one_folder(experiment, texts, tmp_path, capsys):
    from eval.matrix.__main__ import _Lock

    arguments = [f"--config={experiment}", f"--workdir={tmp_path}", "--data", str(texts)]
    with _Lock(tmp_path):
        assert main(arguments) == 2
        assert "another eval.matrix works there" in capsys.readouterr().err
        assert main([*arguments, "--report"]) == 0  # how far it is
    assert "0 of 4 runs finished" in (tmp_path / "matrix.md").read_text()


def test_a_field_that_the_model_got_since_is_no_other_config(texts, tmp_path):
    given = given_of({"base": {}}, model="mamba")
    matrix = make_plan(given, [f"--config.data.paths={(str(texts),)!r}"])
    (run,) = runner.runs_of(matrix, tmp_path)
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


def given_of(entries, questions=None, model="transformer", **fields):
    config = {"model": model, "batch_size": 2, "seq_len": 8, "data": {"tokenizer": "byte"}}
    config["model_config"] = {"width": 32, "num_layers": 2, "head_size": 8, "vocab_size": 0}
    entries = {name: {"group": "tier1", "says": ""} | entry for name, entry in entries.items()}
    given = {"config": config, "steps": 4, "seeds": (0,), "entries": entries}
    return given | {"questions": questions or {}} | fields


def test_parameters_are_matched(texts):
    overrides = [f"--config.data.paths={(str(texts),)!r}"]
    changes = {"num_layers": 1}
    given = given_of(
        {
            "base": {},
            "mlp": {"changes": changes, "match": "mlp_size"},
            "width": {"changes": changes, "match": "width", "multiple": 8},
            "other": {"changes": {"model": "mamba", "head_size": 4}, "match": "width"}
            | {"multiple": 2},
            "free": {"changes": {"num_layers": 4}},
        }
    )
    matrix = make_plan(given, overrides, seeds=(3, 3, 4))
    assert matrix.seeds == (3, 4)
    base, mlp, width, other, free = matrix.entries.values()
    # One layer holds 3 x 32 of SwiGLU for each hidden channel: no value in between.
    assert abs(mlp.parameters - base.parameters) <= 48
    assert mlp.config.model_config.mlp_size == mlp.changes["mlp_size"]
    assert width.config.model_config.width % 8 == 0
    assert abs(matrix.difference(width)) < 0.05
    assert other.config.model == "mamba"
    assert "state_size" in other.config.model_config  # the fields of the other model
    assert matrix.difference(free) > 0.05  # not asked to match, so not refused
    assert base.tokens == 4 * 2 * 8
    assert (base.of_seed(4).seed, base.config.seed) == (4, 0)


def test_the_nearest_value_is_found(monkeypatch):
    from eval.matrix import match
    from train.config import complete_config

    def config_with(changes):
        fields = {"x": 40.0, "n": 7} | changes
        return complete_config({"model": "tests.eval:toy", "model_config": fields})

    monkeypatch.setattr(match, "count", lambda config: round(config.model_config.x**2) + 100)
    assert matched_value(config_with, "x", 1700) == 40.0
    assert matched_value(config_with, "x", 500) == 20.0
    assert matched_value(config_with, "x", 10_100, multiple=1.0) == 100.0
    assert matched_value(config_with, "x", 10, multiple=1.0) == 1.0
    monkeypatch.setattr(match, "count", lambda config: config.model_config.n * 10)
    assert matched_value(config_with, "n", 204) == 20
    assert matched_value(config_with, "n", 206) == 21
    with pytest.raises(UserError, match="do not grow"):
        matched_value(config_with, "x", 100)
    with pytest.raises(UserError, match="must be a field with a positive number"):
        matched_value(config_with, "nothing", 100)


def test_an_equal_size_out_of_reach_is_refused(texts):
    overrides = [f"--config.data.paths={(str(texts),)!r}"]
    entry = {"changes": {"num_layers": 1}, "match": "width", "multiple": 24}
    with pytest.raises(UserError, match=r"no width brings it within 5%.*match another field"):
        make_plan(given_of({"base": {}, "six": entry}), overrides)


def test_unequal_tokens_are_not_compared(texts):
    overrides = [f"--config.data.paths={(str(texts),)!r}"]
    entries = {"base": {}, "long": {"changes": {"steps": 8}}}
    make_plan(given_of(entries), overrides)
    with pytest.raises(UserError, match="'base' reads 64 tokens and 'long' 128"):
        make_plan(given_of(entries, {"q": ("base", "long", "?")}), overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('raise UserError("--preset cpu: there is a, b")', "--preset cpu: there is a, b"),
        ('m["entries"] = {}', "no entries"),
        ('del m["seeds"]', "get_matrix() returns no 'seeds'"),
        ('m["entries"]["slow"]["grup"] = 1', "entry 'slow' has 'grup'; known: group"),
        ('m["entries"]["slow"]["group"] = "x"', "entry 'slow' needs a group of tier1"),
        ('m["questions"]["rate"] = ("base", "x", "?")', "'rate' is about 'x', which is no entry"),
        ('m["diagnosis"] = ("y",)', "'diagnosis' is about 'y'"),
        ('m["entries"]["slow"]["changes"] = {"witdh": 3}', "unknown field; did you mean"),
        ('m["entries"]["slow"]["changes"] = {"seq_len": 0}', "entry 'slow': config.seq_len"),
    ],
)
def test_mistakes_in_the_file(experiment, texts, tmp_path, capsys, change, message):
    path = tmp_path / "wrong.py"
    text = experiment.read_text().replace("return {", "m = {")
    head = "from jaxmodels.errors import UserError\n"
    path.write_text(f"{head}{text}    {change}\n    return m\n")
    assert main([f"--config={path}", f"--workdir={tmp_path}/m", "--data", str(texts)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "fast"], "--only 'fast': no such entry; there is: base, slow"),
        (["--jobs=0"], "--jobs=0: give 1 or more"),
        (["--config=nothing.py"], "no such file"),
        (["--config=configs/mamba.py"], "it defines no get_matrix(preset)"),
    ],
)
def test_mistakes_on_the_command_line(experiment, texts, tmp_path, capsys, arguments, message):
    usual = [f"--config={experiment}", f"--workdir={tmp_path}/m", "--data", str(texts)]
    assert main([*usual, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_plan_only_trains_nothing(experiment, texts, tmp_path, capsys):
    workdir = tmp_path / "m"
    arguments = [f"--config={experiment}", f"--workdir={workdir}", "--data", str(texts), "--plan"]
    assert main(arguments) == 0
    assert "8,448" in capsys.readouterr().out
    assert not workdir.exists()


def test_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(runner.os, "sched_getaffinity", lambda pid: {0, 1, 4, 5, 6}, raising=False)
    assert runner.cores_of(1) == [[]]
    assert runner.cores_of(2) == [[0, 1], [4, 5]]
    assert runner.cores_of(7)[5:] == [[0], [1]]


def test_distinguishable_by_hand():
    # Both variances 1: standard error sqrt(2 / 3), 4 degrees of freedom, t = 2.7764.
    apart = compare([1, 2, 3], [4, 5, 6])
    assert apart["difference"] == -3
    half = 2.776445 * (2 / 3) ** 0.5
    assert (apart["low"], apart["high"]) == pytest.approx((-3 - half, -3 + half), abs=1e-5)
    assert apart["pooled"] == 1
    assert apart["in_spreads"] == -3
    assert apart["verdict"] == "helps"
    assert compare([4, 5, 6], [1, 2, 3])["verdict"] == "hurts"


def test_not_distinguishable_by_hand():
    close = compare([1, 2, 3], [2, 3, 4])
    assert close["difference"] == -1
    assert close["low"] < 0 < close["high"]
    assert close["verdict"] == "not distinguishable"


def test_unequal_spreads_take_welch_not_student():
    """A pooled variance would call this apart (t = 3.8 on 5 degrees of freedom)."""
    answer = compare([0.0, 2.0], [3.0, 3.01, 2.99, 3.0, 3.0])
    assert answer["high"] == pytest.approx(-2 + 12.7, abs=0.1)  # about one degree of freedom
    assert answer["verdict"] == "not distinguishable"


def test_too_little_to_judge():
    assert compare([], [1.0, 2.0])["difference"] is None
    assert compare([1.0], [2.0, 3.0])["verdict"] == "not known"
    assert compare([1.0], [2.0, 3.0])["difference"] == -1.5
    assert compare([1.0, 1.0], [2.0, 2.0])["verdict"] == "not known"  # seeds without effect


def result_of(finals, questions, diagnosis=()):
    entries = {
        name: {"group": "tier1", "says": "", "changes": {}, "match": "", "parameters": 100}
        | {"tokens": 64}
        for name in finals
    }
    runs = [
        {"entry": name, "seed": seed, "final": value, "seconds": 2.0, "step": 12}
        | {"state": "halted" if value is None else "finished", "reason": ""}
        | {
            "valid": {"steps": [6, 12], "values": [5.0, value]},
            "train": {},
            "diagnostics": {},
            "sample": "",
        }
        | {"device": "1 x cpu"}
        for name, values in finals.items()
        for seed, value in enumerate(values)
    ]
    made = {"command": "python", "config": "m.py", "preset": "cpu", "jobs": 1, "device": "cpu"}
    made |= {"versions": {}, "wall_seconds": 1.0, "unit": "bits per character", "seeds": [0, 1, 2]}
    result = {**made, "entries": entries, "runs": runs, "questions": questions}
    result["diagnosis"] = list(diagnosis)
    return result | {
        "answers": answers.answer_all(result),
        "diagnosed": answers.diagnose(result),
    }


def test_many_questions_lower_the_confidence():
    """One difference at p = 0.021 stands alone, and falls among nine comparisons of equals."""
    finals = {"a": [1, 2, 3], "b": [4, 5, 6]} | {f"c{i}": [1.1, 2, 3] for i in range(9)}
    alone = result_of(finals, {"q": ("a", "b", "?")})["answers"]["q"]
    assert alone["p"] == pytest.approx(0.0213, abs=1e-4)
    assert alone["p_jointly"] == alone["p"]
    assert "✓" in alone["words"]
    others = {f"q{i}": ("a", f"c{i}", "?") for i in range(9)}
    among = result_of(finals, {"q": ("a", "b", "?"), **others})["answers"]["q"]
    assert among["p_jointly"] == pytest.approx(10 * among["p"])
    assert among["verdict"] == "helps"
    assert "✓" not in among["words"]


def test_a_halted_run_is_in_no_mean():
    result = result_of({"a": [1, 2, None], "b": [4, 5, 6]}, {"q": ("a", "b", "Is it so?")})
    answer = result["answers"]["q"]
    assert answer["with_mean"] == 1.5
    assert (answer["with_seeds"], answer["with_halted"]) == (2, 1)
    assert "1 run(s) of “a” ceased to be finite" in answer["words"]
    rows = {row["entry"]: row for row in answers.summaries(result)}
    assert (rows["a"]["finished"], rows["a"]["halted"], rows["a"]["runs"]) == (2, 1, 3)
    assert rows["b"]["change"] == 3.5
    assert rows["b"]["spread"] == 1


def test_the_hybrid_against_its_baselines():
    """Interval of a difference between seeds of spread 1: 2.27, see above."""
    finals = {"h": [1, 2, 3], "r": [5, 6, 7], "m": [4.5, 5.5, 6.5]}
    assert result_of(finals, {}, ("h", "r", "m"))["diagnosed"]["verdict"] == "wins"
    assert result_of(finals, {}, ("r", "h", "m"))["diagnosed"]["verdict"] == "undecided"
    assert result_of({**finals, "m": [9, 10, 11]}, {}, ("m", "h", "r"))["diagnosed"]["verdict"] == (
        "training"
    )
    between = result_of({**finals, "m": [9, 10, 11]}, {}, ("r", "h", "m"))
    assert between["diagnosed"]["verdict"] == "capacity"
    assert between["diagnosed"]["words"] in page.markdown(between)
    unknown = result_of({**finals, "m": [1]}, {}, ("h", "r", "m"))["diagnosed"]
    assert unknown["verdict"] == "not known"


def test_the_page_of_a_matrix_cut_short():
    finals = {"a": [1.0, 2.0, 3.0], "b": []}
    result = result_of(finals, {"q": ("a", "b", "Is <it> so?")})
    html = page.compose(result)
    assert "Is &lt;it&gt; so?" in html
    assert "no finished run of one of" in html
    assert "| Is <it> so? | not known | - | - | - | 3, 0 |" in page.markdown(result)
    assert "1 not known. 3 of 3 runs finished" in page.lead(result)


def test_json_is_read_back(tmp_path):
    result = result_of({"a": [1.0, 2.0], "b": [3.0, 4.0]}, {"q": ("a", "b", "?")})
    results.replace(tmp_path / "matrix.json", results.as_json(result))
    assert json.loads((tmp_path / "matrix.json").read_text()) == json.loads(json.dumps(result))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["matrix.json"]


def test_bits_are_those_of_characters(tmp_path):
    (run,) = fake_runs(tmp_path, 1)
    run.config.data.tokenizer = "char"
    write_run(run, values=(3.0, 2.0))
    assert results.bits(run.log()) == ([6, 12], pytest.approx([3.0, 2.0]))
