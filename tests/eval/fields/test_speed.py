"""Measurements of speed: of the same function as the loop, and of what a search misses."""

import numpy as np
import pytest

from eval.fields.search import latency
from eval.fields.speed import throughput
from jaxmodels.errors import UserError


def test_the_loop_in_numpy_is_the_same_function():
    got = throughput(tensors=64, inputs=16, outputs=12, top_k=8, batch=8, samples=1)
    assert got["largest_difference_of_outputs"] < 1e-3
    assert set(got["times"]) == {"loop over tensors", "loop over samples"}
    for name, times in got["times"].items():
        rates = got["samples_per_cpu_second"]
        assert times == pytest.approx(rates["batches"] / rates[name]) and times > 0


@pytest.mark.slow
def test_latency_and_recall_of_each_size():
    rows = latency([256, 2048])
    assert [row["tensors"] for row in rows] == [256, 2048]
    assert rows[0]["cells"] == 2 and rows[0]["recall"] > 0.9  # 8 probes look into both cells
    assert 0.5 < rows[1]["recall"] <= 1.0
    assert all(np.isfinite(row["cells_ms"]) and row["exact_ms"] > 0 for row in rows)
    with pytest.raises(UserError, match="--sizes must be 256 or more"):
        latency([100])
