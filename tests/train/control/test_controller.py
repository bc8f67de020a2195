"""The controller in the loop: effect on a run, and equal decisions on resume."""

import json
import shutil

import jax
import numpy as np
import pytest

from eval.log import read_log
from eval.report.run_page import compose
from jaxmodels.errors import UserError
from tests.train.corpus import small_text
from tests.train.test_loop import changed, stop_at, train_run
from tests.train.toy import toy_config
from train.config import complete_config, validate_config
from train.control.controller import Controller
from train.control.decide import Decision
from train.io.checkpoint import check_info, saved_steps
from train.io.log import read_metrics

STEPS = 48


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A rate far too high, and a controller that lowers it whenever validation does not improve."""
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text())
    return toy_config(
        steps=STEPS,
        eval_every=3,
        checkpoint_every=5,
        log_every=2,
        data__paths=(str(path),),
        optimizer__learning_rate=1.0,
        optimizer__schedule="constant",
        optimizer__warmup_steps=0,
        control__enabled=True,
        control__oscillation=100.0,
        control__overfit_rise=100.0,
        control__converged=0.05,
        control__hold=0.1,
        control__investigate=False,
        control__max_drops=9,
        control__plateau_budget=9,
    )


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, train_run(config, workdir)


def decisions_of(workdir):
    lines = [line for line in read_metrics(workdir) if line.get("split") == "control"]
    return [(line["step"], line["action"]) for line in lines]


def test_controller_lowers_the_rate(whole, config):
    lines = read_metrics(whole[0])
    drops = [step for step, action in decisions_of(whole[0]) if action == "LOWER_LR"]
    assert drops, decisions_of(whole[0])
    rates = {line["step"]: line["learning_rate"] for line in lines if line.get("split") == "train"}
    for step, rate in rates.items():
        before = sum(drop < step for drop in drops)
        assert rate == pytest.approx(config.optimizer.learning_rate * 0.6**before, rel=1e-6)


def test_resumed_controller_decides_the_same(whole, config, tmp_path):
    """Stopped just after the first lowered rate; the log then holds what a kill leaves there."""
    drop = next(step for step, action in decisions_of(whole[0]) if action == "LOWER_LR")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, drop + 1)
        assert train_run(config, tmp_path / "w").step == drop + 1
    with open(tmp_path / "w" / "metrics.jsonl", "a") as stream:
        stream.write(json.dumps({"step": drop + 9, "split": "valid", "loss": 0.1}) + "\n")
        stream.write('{"step": 99, "spl')
    result = train_run(config, tmp_path / "w", resume=True)
    assert result.digest == whole[1].digest
    assert (tmp_path / "w/metrics.jsonl").read_bytes() == (whole[0] / "metrics.jsonl").read_bytes()


def test_controller_cannot_be_toggled_on_resume(config, tmp_path):
    plain = changed(config, control__enabled=False)
    info = {"format": 1, "config": plain.to_dict()}
    with pytest.raises(UserError, match=r"config.control.enabled: .* was made with False"):
        check_info(info, config, tmp_path)
    check_info(info, changed(plain, control__patience=5.0), tmp_path)
    controller = Controller(plain, 100.0)
    for step in (100, 200, 300):
        controller.add(step, "valid", {"loss": 1.0 + step})
    assert controller.decide(300) == (Decision("CONTINUE", ""), {})


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """A short training text of one kind, validated on another: the toy learns it by heart."""
    folder = tmp_path_factory.mktemp("overfit")
    text = small_text(900)
    split = round(len(text) * 0.8)
    (folder / "text.txt").write_text(text[:split] + text[split:].upper())
    config = toy_config(
        steps=400,
        batch_size=4,
        eval_every=10,
        checkpoint_every=1000,
        optimizer__schedule="constant",
        data__paths=(str(folder / "text.txt"),),
        data__valid_fraction=0.2,
        data__test_fraction=0.0,
        control__enabled=True,
    )
    return config, folder / "w", train_run(config, folder / "w")


def test_overfitting_stops_a_run_cleanly(overfitted):
    config, workdir, result = overfitted
    assert result.status == "stopped"
    assert result.step < config.steps
    assert result.message.startswith("overfitting: validation is ")
    assert saved_steps(workdir)[-1] == result.step
    *_, control, final = read_metrics(workdir)
    assert (control["step"], control["split"]) == (result.step, "control")
    assert (control["action"], control["reason"]) == ("STOP", result.message)
    assert final == {
        "final": True,
        "step": result.step,
        "digest": result.digest,
        "stopped": result.message,
    }


def test_stopped_run_stays_stopped_until_settings_change(overfitted, tmp_path):
    config, workdir, result = overfitted
    lines = (workdir / "metrics.jsonl").read_bytes()
    shutil.copytree(workdir, tmp_path / "w")
    again = train_run(config, tmp_path / "w", resume=True)
    assert (again.status, again.digest, again.message) == ("stopped", result.digest, result.message)
    assert (tmp_path / "w/metrics.jsonl").read_bytes() == lines
    lenient = changed(config, steps=result.step + 10, control__start=0.99)
    onwards = train_run(lenient, tmp_path / "w", resume=True)
    assert (onwards.status, onwards.step) == ("finished", result.step + 10)


def test_report_shows_decisions(overfitted):
    _, workdir, result = overfitted
    text = compose(read_log(workdir), {})
    assert "Controller decisions" in text
    assert "The controller stopped the run (overfitting: validation is" in text
    assert text.count(result.message) == 2


def test_lr_scale_multiplies_the_updates(config):
    """One step at scale 1 and one at 0.5 from the same state: half the distance."""
    from tests.train.test_step import batches, start

    placement, _ = start(1, config)
    moved = []
    for scale in (1.0, 0.5):
        state = placement.fresh_state()
        before = jax.device_get(state.model.cell.kernel[...])
        state = state.replace(lr_scale=placement.put_scalar(np.float32(scale)))
        state, metrics = placement.step(state, placement.put_rows(batches()[0]))
        moved.append(jax.device_get(state.model.cell.kernel[...]) - before)
        assert float(metrics["learning_rate"]) == pytest.approx(scale)
        assert float(state.lr_scale) == scale
    np.testing.assert_allclose(moved[1], 0.5 * moved[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hold": 1.5}, "config.control.hold: must be in"),
        ({"lr_cut": 0.0}, "config.control.lr_cut: must be in"),
        ({"patience": 0.0}, "config.control.patience: must be positive"),
        ({"max_drops": -1}, "config.control.max_drops: must not be negative"),
        ({"enabled": True, "patiense": 3.0}, "unknown field 'control.patiense'; did you mean"),
    ],
)
def test_invalid_settings_are_rejected(fields, message):
    with pytest.raises(UserError) as error:
        validate_config(complete_config({"model": "prernk", "control": fields}))
    assert message in str(error.value)


def test_controller_requirements(config, tmp_path):
    with pytest.raises(UserError, match="the controller needs validation; set eval_every"):
        validate_config(changed(config, eval_every=0))
    controller = Controller(changed(config, control__probe="passkey"), 100.0)
    controller.add(100, "valid", {"loss": 1.0, "accuracy": 0.5})
    with pytest.raises(UserError, match="probe: validation measures no 'passkey'; leave it out"):
        controller.decide(100)
    local = changed(config, model="tests.train.test_step:create_local")
    with pytest.raises(UserError, match=r"config.control.max_drops: .* set it to 0"):
        train_run(local, tmp_path / "v")


def test_lines_that_are_none_of_the_trainer_are_passed_over():
    """Added to metrics.jsonl by hand: of a known split, without its values."""
    config = complete_config({"model": "rwkv/4", "control": {"enabled": True}})
    lines = [{"step": 1, "split": "valid"}, {"step": 1, "split": "train", "loss": "low"}]
    lines += [{"step": 1, "split": "control"}, {"step": 1, "split": "flag", "reason": 3}]
    lines += [{"step": 1, "split": [2]}, {"step": 1}, {"step": 2, "split": "valid", "loss": 3.0}]
    history = Controller(config, 0.0, lines).history
    assert (history.steps, history.valid, history.decisions, history.flags) == ([2], [3.0], [], [])
