"""RNK over rows of different lengths: chunks are of real bytes, and each row is as if alone."""

import jax
import numpy as np
import pytest

from jaxmodels.testing.lab import compare, quick_jit, same_bits
from jaxmodels.testing.ragged import layouts
from tests.models.rnk.small import CHUNKINGS, by_steps, small_model, text

TIME = 24
LENGTHS = (TIME, 0, 13)
# Definitions, by step where there is one, and ablations that look ahead.
CASES = {name: fields for name, fields in CHUNKINGS.items()} | {
    "smoothed": {"plan_smoothing": 0.4},
    "plan and state of a chunk": {"plan_from": "own_chunk", "decoder_state": "chunk"},
    "context of the last byte": {"prompt_at": "byte_index"},
    "attention": {"decoder_context": "attention"},
}


@pytest.mark.parametrize("case", CASES)
def test_ragged_rows_equal_the_rows_alone(case):
    model = small_model(**CASES[case])
    tokens = text(model.config, len(LENGTHS), TIME)
    reset = np.random.default_rng(1).random(tokens.shape) < 0.06
    run = quick_jit(lambda model, *x, **more: model(*x, **more))
    state, _ = run(model, model.initial_state(len(LENGTHS)), tokens[:, ::-1])
    results = {}
    for name, layout in layouts(LENGTHS, TIME).items():
        ids, restarts = layout.spread(tokens, -1), layout.spread(reset, True)
        last, out = jax.device_get(run(model, state, ids, restarts, hold=layout.hold))
        assert not out.ends.closes[layout.hold].any()
        results[name] = last, layout.collect(out.logits), layout.collect(out.stop), out.context
    assert same_bits(results["right"], results["left"])
    assert same_bits(results["right"], results["holes"])
    state = jax.device_get(state)
    last, logits, stop, context = results["right"]
    assert same_bits(*jax.tree.map(lambda x: x[1], (last, state)))
    for row, length in enumerate(LENGTHS):
        if not length:
            continue
        part = slice(row, row + 1), slice(0, length)
        first = jax.tree.map(lambda x, row=row: x[row : row + 1], state)
        if model.step is None:
            alone, out = jax.device_get(run(model, first, tokens[part], reset[part]))
            want = out.logits[0], out.stop[0], out.context[0]
        else:
            alone, out = jax.device_get(
                quick_jit(by_steps)(model, first, tokens[part], reset[part])
            )
            want = out.logits[0], out.stop[0], out.context[0, -1]
        got = logits[row, :length], stop[row, :length], context[row]
        own = jax.tree.map(lambda x, row=row: x[row], last)
        alone = jax.tree.map(lambda x: x[0], alone)
        compare([("state", own, alone), ("outputs", got, want)], 1e-4)
