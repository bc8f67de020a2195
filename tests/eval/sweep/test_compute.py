"""Operations of a step, counted by hand, and the compute to a level of the loss."""

import jax
import jax.numpy as jnp
import pytest

from eval.sweep.compute import flops_of, step_flops, to_reach
from eval.sweep.page import brief
from eval.sweep.plan import make_plan
from eval.sweep.sections.compute import compute_rows, section
from jaxmodels.errors import UserError
from tests.eval.sweep.parts import given_of, result_of


def flops(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
    return flops_of(jax.make_jaxpr(function)(*arguments))


def test_operations_by_hand():
    """A product is 2 per term, a loop its body times its rounds, the rest one per element."""
    assert flops(lambda a, b: a @ b, (3, 4), (4, 5)) == 2 * 3 * 4 * 5
    assert flops(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (7, 3, 4), (7, 4, 5)) == 7 * 120
    assert flops(lambda a: jnp.tanh(a) * a, (3, 4)) == 24
    assert flops(lambda a: a.sum(), (3, 4)) == 12
    assert flops(lambda a: a.T.reshape(2, 6)[:1], (3, 4)) == 0

    def loop(a, b):
        return jax.lax.scan(lambda c, _: (c @ b, None), a, None, length=6)[0]

    assert flops(loop, (3, 4), (4, 4)) == 6 * 96
    assert flops(jax.jit(loop), (3, 4), (4, 4)) == 6 * 96
    assert flops(jax.grad(lambda a, b: loop(a, b).sum()), (3, 4), (4, 4)) >= 2 * 6 * 96

    def both(a):
        return jax.lax.cond(a[0] > 0, lambda x: x, lambda x: 2.0 * x, a)

    assert flops(both, (8,)) == pytest.approx(8, abs=2)
    taps = jax.ShapeDtypeStruct((3, 4, 5), "float32")  # width, in, out
    x = jax.ShapeDtypeStruct((2, 10, 4), "float32")
    dims = ("NWC", "WIO", "NWC")

    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1,), "VALID", dimension_numbers=dims)

    assert flops_of(jax.make_jaxpr(convolve)(x, taps)) == 2 * (2 * 8 * 5) * 12
    with pytest.raises(UserError, match="operations of a while cannot be counted"):
        flops(lambda a: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: c + 1, a), (2,))


def test_a_sweep_counts_and_compares():
    """G-97, G-99: MFLOP per token, and the share of compute to the loss of the first entry."""
    wide = {"changes": {"mlp_size": 128}}
    spec = given_of({"plain": {"changes": {"mlp_size": 96}}, "wide": wide}, compute=True)
    plain, wider = make_plan(spec).entries.values()
    tokens, layers = 16, 2
    more = 3 * 32 * (128 - 96) * layers  # three matrices of SwiGLU
    difference = (wider.flops - plain.flops) / tokens
    assert difference == pytest.approx(6 * more, rel=0.02)  # forward, and backward twice
    assert step_flops(plain.config) == plain.flops
    assert make_plan(given_of({"plain": {}})).entries["plain"].flops == 0.0

    result = result_of({"plain": (4.0, 4.2), "wide": (3.1, 3.1), "bad": (4.9, 4.9)}, {})
    assert section(result) == []
    for name, entry in result["entries"].items():
        entry |= {"flops": 3e6 if name == "wide" else 2e6}
        entry["config"] = {"batch_size": 2, "seq_len": 8}
    rows = {row["entry"]: row for row in compute_rows(result)}
    assert rows["wide"]["per_token"] == pytest.approx(3 / 16)
    assert rows["wide"]["per_token_relative"] == pytest.approx(1.5)
    # From 5.0 at step 6 to 3.1 at 12, the level of 4.2 is at 6 + 6 * 0.8 / 1.9.
    steps = 6 + 6 * 0.8 / 1.9
    assert rows["wide"]["total"] == pytest.approx(steps * 3e6 / 1e12)
    # The first entry reaches it with every seed: from 5.0 to 4.0 at 6 + 6 * 0.8, and at the end.
    assert rows["plain"]["total"] == pytest.approx((10.8 + 12) / 2 * 2e6 / 1e12)
    relative = rows["wide"]["total"] / rows["plain"]["total"]
    assert rows["wide"]["total_relative"] == pytest.approx(relative)
    assert rows["bad"]["total"] is rows["bad"]["total_relative"] is None
    headers = [getattr(block, "header", ()) for block in brief(result)]
    assert any("MFLOP per token" in x and "TFLOP to the level" in x for x in headers)


def test_steps_to_a_level():
    runs = [{"valid": {"steps": [10, 20], "values": [3.0, 1.0]}}]
    assert to_reach(runs, 2.0) == 15.0 and to_reach(runs, 3.5) == 10.0
    assert to_reach(runs, 0.5) is None and to_reach([], 1.0) is None
    assert to_reach([*runs, {"valid": {"steps": [10], "values": [5.0]}}], 2.0) is None
