"""A run of HFT: logged, resumed bit for bit, stored in float16, its contexts collected."""

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from eval.fields.collect import collect
from jaxmodels.data import load_corpus
from jaxmodels.data.shards import Shards, write_shards
from jaxmodels.errors import UserError
from jaxmodels.tree import flatten
from train.config import complete_config
from train.io.checkpoint import load_model
from train.io.log import read_metrics
from train.loop import run


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("It was the best of times, it was the worst of times. " * 300)
    return path


def config(text, steps, tensor=1, features="", seed=0, **changes):
    small = {"window": 6, "ngram_orders": (2, 3), "ngram_bins": 256, "sketch_size": 128}
    small |= {"width": 32, "tensors": 96, "top_k": 8, "queue": 16, "relocated": 4}
    small |= {"relocate_every": 2, "seed_stride": 4, "dead_usage": 0.9} | changes
    return complete_config(
        {
            "model": "hft",
            "model_config": small,
            "steps": steps,
            "seed": seed,
            "batch_size": 4,
            "seq_len": 32,
            "eval_every": 4,
            "checkpoint_every": 4,
            "log_every": 2,
            "parallel": "shard_map" if tensor > 1 else "pmap",
            "mesh": {"tensor": tensor},
            "data": {"paths": (str(text),), "valid_fraction": 0.2, "features": features},
        }
    )


def train(text, folder, steps, resume=False, tensor=1, **changes):
    devices = jax.devices()[:tensor]
    settings = config(text, steps, tensor, **changes)
    return run(settings, folder, resume=resume, quiet=True, devices=devices)


def test_resumed_run_is_the_same_bit_for_bit(text, tmp_path):
    whole = train(text, tmp_path / "a", 8)
    train(text, tmp_path / "b", 4)
    again = train(text, tmp_path / "b", 8, resume=True)
    assert whole.digest and again.digest == whole.digest
    rows = read_metrics(tmp_path / "a")
    logged = {"answering", "in_use", "relocated", "next_token", "accuracy"}
    assert logged <= rows[0].keys()  # F-19
    assert rows[-2]["relocated"] > 0

    folder = tmp_path / "a" / "checkpoints" / "8"
    stored = ocp.checkpointables_metadata(folder).metadata["model"]  # F-22
    dtypes = {name: str(leaf.dtype) for name, leaf in flatten(stored).items()}
    assert dtypes["field/columns"] == dtypes["field/usage"] == dtypes["queue/x"] == "float16"
    model = load_model(tmp_path / "a", "last").model
    assert model.field.columns.dtype == np.float16

    with pytest.raises(UserError, match=r"model_config\.width"):
        train(text, tmp_path / "a", 8, resume=True, width=64)

    # F-16 to F-18: contexts are projected once, in whatever batches, and replayed from the disk.
    documents = load_corpus((str(text),), "byte", valid_fraction=0.2).valid
    pairs = list(collect(model, documents, batch_size=1, seq_len=64))
    rows = write_shards(tmp_path / "shards", pairs)
    assert rows == sum(len(d) - 1 for d in documents)
    short = list(collect(model, documents, batch_size=1, seq_len=16))
    x, y = (np.concatenate([p[i] for p in pairs]) for i in range(2))
    np.testing.assert_array_equal(np.concatenate([p[0] for p in short]), x)
    shards = Shards(tmp_path / "shards", 32)
    replayed = [np.concatenate(part) for part in zip(*shards, strict=True)]
    np.testing.assert_array_equal(replayed[0], x.astype(np.float16))
    np.testing.assert_array_equal(replayed[1], y)


def test_contexts_are_projected_once_and_replayed(text, tmp_path):
    """F-16: several runs over the same batches read the shards that the first has written."""
    folder = tmp_path / "shards"
    features = {"features": str(folder), "geometry_rate": 0.0}
    first = train(text, tmp_path / "a", 8, **features)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(written) == 2 * 8 + 1
    again = train(text, tmp_path / "b", 8, **features)
    assert first.digest and again.digest == first.digest
    train(text, tmp_path / "c", 4, **features)
    assert train(text, tmp_path / "c", 8, resume=True, **features).digest == first.digest
    train(text, tmp_path / "d", 8, **features, rate=2.0)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    anew = train(text, tmp_path / "e", 8, geometry_rate=0.0)  # unlike it in rounding alone
    np.testing.assert_allclose(anew.valid["loss"], first.valid["loss"], rtol=0.01)
    zeroed = Shards(folder)  # and what is replayed is what is learned from
    write_shards(tmp_path / "zeros", ((0 * x, y) for x, y in zeroed), zeroed.about)
    other = train(text, tmp_path / "f", 8, features=str(tmp_path / "zeros"), geometry_rate=0.0)
    assert abs(other.valid["loss"] - first.valid["loss"]) > 0.1

    for changes, says in (
        ({"window": 5}, "contexts of window=6, but the model has 5"),
        ({"seed": 1}, "step 1 is of other text"),
    ):
        with pytest.raises(UserError, match=says):
            train(text, tmp_path / f"bad{len(says)}", 8, **features, **changes)
    with pytest.raises(UserError, match="holds 8 batches, not steps=9"):
        train(text, tmp_path / "long", 9, **features)
    shard = folder / "00002.x.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"00002\.x\.npy: truncated or altered") as error:
        train(text, tmp_path / "cut", 8, **features)
    assert "\n" not in str(error.value)


def test_models_without_contexts_have_nothing_to_replay(text, tmp_path):
    data = {"paths": (str(text),), "features": str(tmp_path / "shards")}
    settings = complete_config({"model": "rwkv", "model_config": {"width": 8}, "data": data})
    with pytest.raises(UserError, match="'rwkv' has no contexts to project"):
        run(settings, tmp_path / "a", quiet=True, devices=jax.devices()[:1])


def test_a_split_field_is_resumed_bit_for_bit_and_read_whole(text, tmp_path):
    """By the common loop, over two devices: logs, checkpoints and validation as on one."""
    still = {"geometry_rate": 0.0}  # see tests/models/hft/test_model.py
    whole = train(text, tmp_path / "a", 8, tensor=2, **still)
    train(text, tmp_path / "b", 4, tensor=2, **still)
    again = train(text, tmp_path / "b", 8, resume=True, tensor=2, **still)
    assert whole.digest and again.digest == whole.digest
    model = load_model(tmp_path / "a", "last").model
    assert model.field.columns.shape == (96, 3, 256)

    one = train(text, tmp_path / "c", 8, **still)
    np.testing.assert_allclose(one.valid["loss"], whole.valid["loss"], rtol=1e-3)
    # A run on two devices goes on on one.
    here = train(text, tmp_path / "b", 10, resume=True, **still)
    there = train(text, tmp_path / "a", 10, resume=True, tensor=2, **still)
    np.testing.assert_allclose(here.valid["loss"], there.valid["loss"], rtol=1e-3)
