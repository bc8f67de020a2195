"""Checks of a field: they pass what is sound and fail what is planted."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from eval.fields import verify
from eval.fields.__main__ import main
from eval.report.field_page import _coverage
from jaxmodels.cells.hypertensor.relocation import plant
from jaxmodels.models.hft.context import project, raw_entries
from train.config import complete_config
from train.loop import run

SMALL = {"window": 8, "ngram_bins": 1024, "tensors": 128, "top_k": 8, "relocated": 8, "queue": 32}


def contexts(c, n=300):
    rng = np.random.default_rng(0)
    windows = jnp.asarray(rng.integers(97, 105, (n, c.window)))
    positions = jnp.asarray(rng.integers(0, 50, n))
    return windows, positions, np.asarray(project(c, *raw_entries(c, windows, positions)))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [({}, "PASS"), ({"width": 8, "sketch_size": 16}, "FAIL"), ({"block_norm": 128}, "FAIL")],
    ids=str,
)
def test_sketches_pass_unless_they_are_off_by_a_tenth(changes, verdict):
    """F-24: a width of 8 loses cosines; the source's block norm, norms, whatever its scale."""
    c = jaxmodels.make_config("hft", **(SMALL | {"width": 512} | changes))
    windows, positions, features = contexts(c)
    got = verify.sketch_check(c, windows, positions, features)
    assert got["verdict"] == verdict
    if "block_norm" in changes:
        assert got["variance_ratio"] > 20 and got["norm_error"] > 1
    elif verdict == "PASS":
        assert got["cosine_correlation"] > 0.8 and abs(got["variance_ratio"] - 1) < 0.1


def field_at(c, x, outputs):
    model = jaxmodels.create(c, seed=0)
    every = jnp.arange(len(x))
    used = model.field.replace(usage=jnp.ones_like(model.field.usage))
    return plant(c.predictor, used, every, x, outputs, every >= 0)


def test_silent_tensors_and_locality_are_seen():
    c = jaxmodels.make_config("hft", **(SMALL | {"width": 64, "sketch_size": 256}))
    _, _, x = contexts(c, 128)
    field = field_at(c, x, jnp.zeros((128, 256)))
    busy = verify.tensor_check(c.predictor, field, jnp.asarray(x))
    one = verify.tensor_check(c.predictor, field, jnp.asarray(x[:1]))
    assert busy["never_answering"] < 0.1 and one["never_answering"] == pytest.approx(120 / 128)
    assert sum(busy["log10_count_histogram"]["counts"]) == 128
    shares = verify.locality_check(c.predictor, field, x)
    assert shares["0.99"] > 0.6 > shares["0"]


def test_r2_measures_what_features_tell():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 10))
    y = x @ rng.standard_normal((10, 4))
    assert verify.regression_r2(x, y) > 0.99
    noisy = verify.regression_r2(x, y + np.std(y) * rng.standard_normal(y.shape))
    assert 0.4 < noisy < 0.6
    assert abs(verify.regression_r2(x, rng.standard_normal((2000, 4)))) < 0.05


def test_relocation_helps_where_the_field_was_wrong():
    c = jaxmodels.make_config("hft", **(SMALL | {"width": 64, "sketch_size": 256}))
    _, _, x = contexts(c, 256)
    field = field_at(c, x[:128], jnp.zeros((128, 256)))
    got = verify.relocation_check(c, field, jnp.asarray(x), jnp.arange(256) % 256)
    assert got["events"] == 32 and got["positive"] > 0.9 and got["mean_delta"] > 0.3
    plain = dataclasses.replace(c, relocated=64, queue=8)
    assert verify.relocation_check(plain, field, jnp.asarray(x), jnp.arange(256))["events"] == 8


def test_command_writes_all_checks(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 400)
    config = complete_config(
        {
            "model": "hft",
            "model_config": SMALL | {"width": 32, "sketch_size": 128},
            "steps": 4,
            "batch_size": 8,
            "seq_len": 32,
            "eval_every": 4,
            "checkpoint_every": 4,
            "data": {"paths": (str(text),), "valid_fraction": 0.3},
        }
    )
    work = tmp_path / "run"
    assert run(config, work, quiet=True, devices=jax.devices()[:1]).status == "finished"
    assert not main([f"--workdir={work}", f"--peer={work}", "--contexts=1024", "--examples=4096"])
    result = json.loads((work / "field.json").read_text())
    assert {"sketches", "tensors", "locality", "features_r2", "relocation", "bits"} <= result.keys()
    bits = result["bits"]
    assert set(bits) >= {"hft", "unigram", "softmax", "ridge", "kneser-ney of order 6"}
    mixed = bits["hft x kneser-ney, log-linear"]["valid"]
    assert mixed <= min(bits["hft"]["valid"], bits["kneser-ney of order 6"]["valid"]) + 1e-4
    # The same model as a peer, its bits from its loss: what the field's own row says.
    peer = next(row for name, row in bits.items() if name.startswith("hft, "))
    assert peer["test"] == pytest.approx(bits["hft"]["test"], rel=1e-4)
    assert "bits per target" in capsys.readouterr().out
    page = (work / "report.html").read_text()
    assert "The field" in page and "Heads on the same held-out targets" in page
    assert "none: the model learns by local updates" in page


def test_coverage_is_labelled_in_whole_answers():
    answers = np.array([0, 0, 0, 1, 2, 3, 9, 40])
    counts, edges = np.histogram(np.log10(np.maximum(answers, 0.5)), bins=4)
    bars = _coverage(counts.tolist(), edges.tolist())
    assert bars == {"0 to 1": (4.0, 0.0), "2 to 4": (2.0, 0.0), "5 to 13": (1.0, 0.0),
                    "14 to 40": (1.0, 0.0)}  # fmt: skip
    assert list(_coverage([2, 1], [np.log10(0.5), np.log10(0.9), 1.0])) == ["0", "1 to 10"]
