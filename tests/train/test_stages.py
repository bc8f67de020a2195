"""Runs in a chain: weights handed on, groups frozen, stages that have ended left alone."""

import jax
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.tree import flatten
from tests.train.corpus import small_text
from tests.train.test_loop import changed, stop_at, train_run
from tests.train.toy import toy_config
from train.io.checkpoint import load_model
from train.io.log import read_metrics
from train.model import build_model
from train.stages import Stage, frozen_until_loss, protocol, run_stages


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text())
    return toy_config(
        steps=30,
        eval_every=2,
        checkpoint_every=10,
        data__paths=(str(path),),
        optimizer__learning_rate=1e-1,
    )


def weights(workdir):
    return {n: np.asarray(x) for n, x in flatten(load_model(workdir, "last").model).items()}


@pytest.fixture(scope="module")
def chain(config, tmp_path_factory):
    """All matrices frozen until a loss that the toy reaches, then six steps of everything."""
    stages = frozen_until_loss("matrix", loss=4.4)
    stages = (stages[0], Stage(stages[1].name, {"steps": 6, "optimizer.learning_rate": 1e-12}))
    workdir = tmp_path_factory.mktemp("chain")
    devices = jax.devices()[:2]
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        first = run_stages(config, stages, workdir, quiet=True, devices=devices)
    assert [(r.status, r.step) for r in first] == [("interrupted", 3)]
    results = run_stages(config, stages, workdir, resume=True, quiet=True, devices=devices)
    return workdir, results


def test_first_stage_ends_at_its_target_loss(chain):
    workdir, results = chain
    assert [result.status for result in results] == ["stopped", "finished"]
    assert results[0].message.endswith("reached 4.4")
    assert results[0].valid["loss"] <= 4.4
    valid = [m["loss"] for m in read_metrics(workdir / "1_without") if m.get("split") == "valid"]
    assert all(loss > 4.4 for loss in valid[:-1])


def test_frozen_groups_keep_their_weights_across_stages(chain, config):
    workdir, _ = chain
    fresh = {name: np.asarray(x) for name, x in flatten(build_model(config)).items()}
    first, second = weights(workdir / "1_without"), weights(workdir / "2_together")
    for name in fresh:
        assert np.array_equal(first[name], fresh[name]) == name.endswith("kernel"), name
        np.testing.assert_allclose(
            second[name], first[name], atol=1e-6
        )  # at a learning rate near 0


def test_protocol_stages():
    foundation, induction, alignment = protocol(["talk.txt"], frozen=("embed", "head"))
    assert foundation.changes["control.max_drops"] == 0  # the first plateau ends it
    assert induction.changes["optimizer.freeze"] == {"embed": -1, "head": -1}
    assert induction.changes["data.paths"] == ("talk.txt",)
    assert alignment.changes == {}


def test_mismatched_stages_are_rejected(chain, config, tmp_path):
    workdir, _ = chain
    wider = changed(config, init_from=str(workdir / "1_without"), model_config__width=4)
    with pytest.raises(UserError, match=r"config.init_from: cell/bias is \(16,\) in .* and \(8,\)"):
        train_run(wider, tmp_path / "w")
    with pytest.raises(UserError, match=r"^config.init_from: .* holds no checkpoint"):
        train_run(changed(config, init_from=str(tmp_path)), tmp_path / "v")
    with pytest.raises(UserError, match="stages: names must differ"):
        run_stages(config, [Stage("a", {}), Stage("a", {})], tmp_path)
    with pytest.raises(UserError, match="stage 'a': config: unknown field 'step'; did you mean"):
        run_stages(config, [Stage("a", {"step": 3})], tmp_path)
