"""A look into the components at each validation: what it finds, and what the run makes of it."""

import jax
import numpy as np
import pytest
from flax import nnx

from jaxmodels.data import Corpus, Document
from jaxmodels.errors import UserError
from jaxmodels.models import observe
from jaxmodels.tree import flatten, unflatten
from tests.eval.small_ground import TEXT, TOKENIZER, small_model
from tests.train.corpus import small_text
from tests.train.test_loop import changed, stop_at, train_run
from tests.train.toy import Toy, ToyConfig, toy_config
from train.control.monitor import PIECE, ROWS, ComponentMonitor, judge
from train.io.log import read_metrics

NOISE = np.random.default_rng(0).standard_normal


class Watched(Toy):
    """The toy, which shows two paths: what its cell gives, and that once more, scaled."""

    def __init__(self, config, rngs, scale):
        super().__init__(config, rngs)
        self.scale = scale

    def intermediates(self, state, tokens):
        after, out = self(state, tokens)
        hs = out.hs
        seen = {"rwkv_out": hs, "rwkv_state": after.h, "mamba_out": self.scale * hs}
        return after, [{}, seen | {"rwkv_retention": jax.nn.sigmoid(hs)}]


def create(*, seed=0, dtype="float32", mute=False, **fields):
    return Watched(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed), 0.0 if mute else 1.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(small_text())
    config = toy_config(
        model="tests.train.control.test_monitor:create",
        steps=20,
        eval_every=4,
        checkpoint_every=5,
        log_every=2,
        data__paths=(str(path),),
        control__enabled=True,
        control__watch=True,
    )
    config.model_config.mute = True
    return config


@pytest.fixture(scope="module")
def muted(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "muted"
    return workdir, train_run(config, workdir)


def lines_of(workdir, split):
    return [line for line in read_metrics(workdir) if line.get("split") == split]


def test_constant_path_is_a_red_flag(muted):
    workdir, result = muted
    assert result.status == "finished"
    seen = lines_of(workdir, "flag")
    assert [line["step"] for line in seen] == [4, 8, 12, 16, 20]
    for line in seen:
        assert line["reason"] == "mamba's output is constant in layer 1"
        assert (line["output_rms/mamba"], line["output_variance/mamba"]) == (0.0, 0.0)
        assert line["output_rms/rwkv"] > 0.01 and line["output_variance/rwkv"] > 0.01
        assert 0.1 < line["state_entropy/rwkv"] <= np.log(16)
        assert line["state_norm/rwkv"] > 0.01 and 0.3 < line["retention/rwkv"] < 0.7
    decision = lines_of(workdir, "control")[0]
    assert (decision["step"], decision["action"]) == (12, "INVESTIGATE")  # the third validation
    assert decision["reason"] == "red flag: mamba's output is constant in layer 1"


def test_training_is_equal_without_monitor(muted, config, tmp_path):
    sound = changed(config, control__watch=False, model_config__mute=False)
    assert train_run(sound, tmp_path / "w").digest == muted[1].digest
    assert lines_of(tmp_path / "w", "flag") == []
    assert not any("red flag" in line["reason"] for line in lines_of(tmp_path / "w", "control"))


def test_resumed_monitor_logs_the_same(muted, config, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 13)
        assert train_run(config, tmp_path / "w").step == 13
    assert train_run(config, tmp_path / "w", resume=True).digest == muted[1].digest
    whole = (muted[0] / "metrics.jsonl").read_bytes()
    assert (tmp_path / "w" / "metrics.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_monitor_is_independent_of_placement(muted, config, tmp_path):
    split = changed(config, parallel="shard_map", mesh__fsdp=2)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        train_run(split, tmp_path / "w", devices=4)
    (line,), first = lines_of(tmp_path / "w", "flag"), lines_of(muted[0], "flag")[0]
    assert line.pop("reason") == first["reason"]
    numbers = {name: value for name, value in first.items() if name in line}
    numbers.pop("split"), line.pop("split")
    assert line == pytest.approx(numbers, rel=1e-4)  # after four steps, summed in other orders


def test_model_without_intermediates_is_rejected(config, tmp_path):
    plain = changed(config, model="tests.train.toy:create")
    del plain.model_config["mute"]
    with pytest.raises(UserError, match=r"config.control.watch: .* has no `intermediates`"):
        train_run(plain, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def layer(**changes):
    """A layer in which nothing is wrong."""
    found = {
        "rwkv_out": NOISE((2, 8, 4)),
        "rwkv_state": NOISE((2, 1, 4, 4)),
        "rwkv_retention": np.full((2, 8, 1, 4), 0.9),
        "mamba_out": NOISE((2, 8, 4)),
        "mamba_state": NOISE((2, 1, 4, 4)),
        "mamba_retention": np.full((2, 8, 1), 0.9999),
        "mamba_delta": 1.0 + 0.1 * NOISE((2, 8, 1)),
    }
    return found | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rwkv_out": np.zeros((2, 8, 4))}, "rwkv's output is constant"),
        ({"mamba_out": 3.0 + np.zeros((2, 8, 4))}, "mamba's output is constant"),
        ({"mamba_delta": np.full((2, 8, 1), 0.3)}, "mamba selects nothing"),
        ({"rwkv_retention": np.zeros((2, 8, 1, 4))}, "rwkv's retention collapsed to 0"),
        ({"mamba_retention": np.ones((2, 8, 1))}, "mamba's retention collapsed to 1"),
    ],
)
def test_red_flags_of_one_layer(changes, message):
    before, after = layer(), layer()
    assert "reason" not in judge([before, {}], [after, {}])
    found = judge([before, {}, before], [after, {}, after | changes])
    assert found["reason"] == f"{message} in layer 2"
    everywhere = judge([before] * 10, [after | changes] * 10)
    assert everywhere["reason"] == f"{message} in layers 0, 1, 2, 3, 4, 5, 6, 7, ..."


def test_stuck_state_is_a_red_flag():
    before = layer()
    still = layer(rwkv_state=before["rwkv_state"])
    assert judge([before], [still])["reason"] == "rwkv's state does not move in layer 0"


def test_hybrid_with_one_path_cut_off():
    """GroundThink: healthy at initialization, flagged without Mamba's output projection."""
    documents = (Document("text", TOKENIZER.encode(TEXT), None, {}),)
    corpus = Corpus("text", documents, (), (), tokenizer=TOKENIZER, split="none")
    model = jax.device_get(small_model())
    monitor = ComponentMonitor(None, model, corpus)
    assert monitor.tokens.shape == (ROWS, 2 * PIECE)
    sound = monitor.inspect(model)
    assert "reason" not in sound
    names = [f"{name}/{path}" for path in ("rwkv", "mamba") for name in ("state_norm", "retention")]
    assert all(sound[name] > 0 for name in names)
    programs = observe._compiled._cache_size()
    flat = flatten(model)
    cut = [name for name in flat if "mamba" in name and "out_proj/kernel" in name]
    assert cut
    broken = unflatten(model, flat | {name: np.zeros_like(flat[name]) for name in cut})
    assert monitor.inspect(broken)["reason"] == "mamba's output is constant in layer 0"
    assert observe._compiled._cache_size() == programs  # a second inspection compiles nothing
