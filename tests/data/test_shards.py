"""Shards of features: a round trip in float16, and one line for each kind of damage."""

import json

import numpy as np
import pytest

from jaxmodels.data.shards import Shards, write_shards
from jaxmodels.errors import UserError


def pairs(count=3, width=4):
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((5, width)), rng.integers(0, 9, 5)) for _ in range(count)]


def test_round_trip_in_float16_with_dtypes(tmp_path):
    assert write_shards(tmp_path / "a", pairs()) == 15
    for (x, y), (got_x, got_y) in zip(pairs(), Shards(tmp_path / "a", 4), strict=True):
        assert got_x.dtype == np.float16 and got_y.dtype == np.int32
        np.testing.assert_array_equal(got_x, x.astype(np.float16))
        np.testing.assert_array_equal(got_y, y)
    index = json.loads((tmp_path / "a" / "index.json").read_text())
    assert index["dtypes"] == {"x": "float16", "y": "int32"} and index["width"] == 4


def test_damage_gets_one_line(tmp_path):
    folder = tmp_path / "a"
    write_shards(folder, pairs())
    shard = folder / "00001.x.npy"
    whole = shard.read_bytes()
    for content, says in ((whole[:-3], "truncated or altered"), (None, "missing")):
        shard.unlink()
        if content is not None:
            shard.write_bytes(content)
        with pytest.raises(UserError, match=f"00001.x.npy: {says}"):
            list(Shards(folder, 4))
    with pytest.raises(UserError, match="width 4, but the model reads 8"):
        list(Shards(folder, 8))
    with pytest.raises(UserError, match="no index of shards"):
        list(Shards(tmp_path / "none", 4))


@pytest.mark.parametrize(
    ("batches", "says"),
    [
        ([], "nothing to write"),
        ([(np.full((2, 3), np.nan), np.zeros(2))], "row 0 is NaN"),
        ([(np.array([[1.0], [1e6]]), np.zeros(2))], "row 1 is NaN, Inf or beyond float16"),
        ([(np.ones((2, 3)), np.zeros(3))], "do not fit to each other"),
        ([(np.ones((2, 3)), np.zeros(2)), (np.ones((2, 4)), np.zeros(2))], "do not fit to width 3"),
    ],
)
def test_bad_features_are_refused(batches, says, tmp_path):
    with pytest.raises(UserError, match=says):
        write_shards(tmp_path / "b", batches)


def test_a_folder_with_shards_is_not_overwritten(tmp_path):
    write_shards(tmp_path, pairs())
    with pytest.raises(UserError, match="already holds shards"):
        write_shards(tmp_path, pairs())
