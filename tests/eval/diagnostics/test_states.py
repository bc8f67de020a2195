"""Statistics of states, on arrays with known results."""

import math

import numpy as np
import pytest

from eval.diagnostics import gates, states
from eval.diagnostics.linear import decode_parts
from train.control import health

RNG = np.random.default_rng(0)


def test_entropy_of_known_distributions():
    assert health.state_entropy(np.zeros((2, 3, 32))) == pytest.approx(math.log(32))
    two = np.where(np.arange(32) < 2, 50.0, -50.0)[None]
    assert health.state_entropy(two) == pytest.approx(math.log(2))
    rows = np.log(np.array([[0.5, 0.25, 0.125, 0.125], [1.0, 1e-30, 1e-30, 1e-30]]))
    assert health.state_entropy(rows) == pytest.approx(1.75 * math.log(2) / 2)
    assert health.state_entropy(rows + 700.0) == pytest.approx(1.75 * math.log(2) / 2)


@pytest.mark.parametrize(
    ("entropy", "label"),
    [
        (0.99, "collapse"),
        (1.0, "low"),
        (1.99, "low"),
        (2.0, "healthy"),
        (5.0, "healthy"),
        (5.01, "diverse"),
        (7.0, "diverse"),
        (7.01, "chaos"),
    ],
)
def test_entropy_labels(entropy, label):
    assert states.entropy_label(entropy) == label


def test_effective_rank_and_utilisation():
    one = np.outer(np.arange(1.0, 5.0), np.ones(8))
    orthogonal = np.linalg.qr(RNG.standard_normal((8, 8)))[0][:4]
    np.testing.assert_allclose(
        states.effective_rank(np.stack([one, orthogonal, np.zeros((4, 8))])), [1.0, 4.0, 0.0]
    )
    two = np.diag([3.0, 1.0])  # shares 3/4, 1/4
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert states.effective_rank(two) == pytest.approx(expected)
    assert states.utilisation(np.stack([one, orthogonal])) == pytest.approx(2.5 / 4)


def test_live_share_counts_varying_entries():
    samples = RNG.standard_normal((50, 4, 5))
    assert states.live_share(samples) == 1.0
    samples[:, 0] *= 0.05  # 1/400 of the variance of the others
    assert states.live_share(samples) == pytest.approx(0.75)
    assert states.live_share(np.ones((50, 4))) == 0.0


def test_top_ratio():
    matrix = np.diag([4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    assert states.top_ratio(matrix) == pytest.approx(11 / 12)
    assert states.top_ratio(matrix, top=2) == pytest.approx(7 / 12)
    assert states.top_ratio(np.zeros((8, 8))) == 1.0
    assert states.gaussian_top_ratio(32, 32) == pytest.approx(0.31, abs=0.005)
    assert states.gaussian_top_ratio(16, 16) > 0.5  # an effect of the small size


def test_saturation_of_both_signs():
    state = np.array([[5.0, 5.1, -5.1, 0.0], [1.0, 100.0, 2.0, 3.0]])
    assert states.saturation(state) == 3 / 8


def test_state_norm_covers_all_heads():
    assert health.state_norm(np.array([[[3.0, 4.0]], [[0.0, 1.0]]])) == pytest.approx(3.0)


def test_consecutive_cosine():
    a, b = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    zero = np.zeros((2, 2))
    cosines = states.consecutive_cosine(np.stack([zero, zero, a, a * 7, b, -b])[:, None])
    np.testing.assert_allclose(cosines[:, 0], [1.0, 0.0, 1.0, 0.5**0.5, -1.0])


@pytest.mark.parametrize(
    ("cosine", "label"),
    [
        (0.9991, "FROZEN"),
        (0.999, "STATIC"),
        (0.9901, "STATIC"),
        (0.99, "EVOLVING"),
        (0.9, "DYNAMIC"),
    ],
)
def test_movement_labels(cosine, label):
    assert states.movement_label(cosine) == label


def test_evolution():
    cosines = [np.full((5, 1), value) for value in (0.8, 0.6, 0.9995, 0.3)]
    found = states.evolution(cosines, depths=(0, 1, 3, 4), num_layers=5)
    assert found.mean == pytest.approx(0.674875)
    assert found.variance == pytest.approx(np.var([0.8, 0.6, 0.9995, 0.3]))
    assert found.labels == ("DYNAMIC", "DYNAMIC", "FROZEN", "DYNAMIC")
    assert found.label == "FROZEN"  # the worst layer, not the mean
    assert (found.early, found.late) == (pytest.approx(0.7), pytest.approx(0.64975))
    assert found.drift == pytest.approx(-0.05025) and "late layers move more" in found.says
    turned = states.evolution(cosines[::-1], depths=(0, 1, 3, 4), num_layers=5)
    assert "late layers move less" in turned.says
    assert "too few" in states.evolution(cosines[:1]).says


def test_capacity():
    assert states.worldview_capacity(16, 0.75) == 4.0


def test_collapse_of_outputs_step_sizes_and_decays():
    out = RNG.standard_normal((2, 30, 8))
    variance, collapsed = states.output_variance(out)
    assert variance == pytest.approx(out.reshape(60, 8).var(0).mean()) and not collapsed
    constant = np.broadcast_to(RNG.standard_normal(8), (2, 30, 8))
    assert states.output_variance(constant + 1e-4 * out)[1]
    assert states.output_variance(np.zeros((2, 3, 4))) == (0.0, True)

    delta = np.full((2, 30, 3), 0.1)
    assert states.selection_variance(delta) == (pytest.approx(0.0), True)
    delta[..., 1] += 0.01 * RNG.standard_normal((2, 30))  # one head selects
    assert not states.selection_variance(delta)[1]

    spread = np.broadcast_to(np.linspace(0.1, 0.999, 20), (2, 7, 20))
    assert states.decays(spread)["collapsed"] == ""
    assert states.decays(np.full((2, 7, 4, 5), 0.9999))["collapsed"] == ""  # the identity start
    assert states.decays(np.full((2, 7, 4, 5), 0.999995))["collapsed"] == "to 1"
    assert states.decays(np.full((2, 7, 4), 0.005))["collapsed"] == "to 0"
    assert states.decays(spread)["smallest"] == pytest.approx(0.1)


def test_reports_and_the_controller_agree_on_what_has_collapsed():
    """One definition of each red flag, on both sides of its threshold (G-47, G-62)."""
    for value in (0.005, 0.02, 0.5, 0.9999, 0.999995):
        for share in (0.5, 0.9, 0.96, 1.0):
            retention = np.where(np.arange(100) < share * 100, value, 0.5)
            retention = np.broadcast_to(retention, (2, 7, 100))
            end = health.decay_collapsed(retention)
            assert states.decays(retention)["collapsed"] == (end and f"to {end}"), (value, share)
    alive = np.full((2, 30, 8), 100.0)
    quiet = 0.01 * np.random.default_rng(0).standard_normal((2, 30))
    alive[..., 0] = quiet  # a channel that varies
    for out in (alive, np.full((2, 30, 8), 2.0)):
        assert states.output_variance(out)[1] == health.activation_collapsed(out)
        assert states.selection_variance(out)[1] == health.activation_collapsed(out)


def decode(features, keys):
    return decode_parts({"state": features}, keys)["state"]


def streams(retention, examples=360, tokens=24, size=16, seed=0):
    """States of linear attention that read a key among ten, then noise, half of it let in.

    -> (states after each token of the first examples (T, 2, size, size), the last states of all,
    keys). Written is an outer product of the token's key and value.
    """
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 10, examples)
    table = rng.standard_normal((10, 2, size)) / size**0.5
    state = np.einsum("bk,bv->bkv", table[keys, 0], table[keys, 1])
    history = []
    for _ in range(tokens):
        k, v = rng.standard_normal((2, examples, size)) / size**0.5
        gate = rng.random((examples, 1, 1)) < 0.5
        state = np.where(gate, retention * state + np.einsum("bk,bv->bkv", k, v), state)
        history.append(state[:2])
    return np.stack(history), state, keys


@pytest.fixture(scope="module", params=[0.25, 0.999])
def stream(request):
    return request.param, *streams(request.param)


def test_forgetting_state_passes_g35_and_fails_useful_memory(stream):
    retention, history, last, keys = stream
    found = states.evolution([states.consecutive_cosine(history)])
    ratio = float(states.top_ratio(last[:2]).min())
    verdicts = [
        gates.movement(found),
        gates.cosine_variance(found),
        gates.low_rank_gate(ratio, states.effective_rank(last).mean(), 0.55),
        gates.saturation_gate(states.saturation(last)),
    ]
    decoded = decode(last, keys)
    memory = gates.useful_memory(decoded.correct, decoded.asked, 0.1)
    if retention == 0.25:
        assert gates.overall(verdicts) == "pass" and memory.outcome == "fail"
    else:  # G3.5 rates remembering below forgetting
        assert gates.overall(verdicts) == "fail" and memory.outcome == "pass"


def test_decode_accuracy():
    keys = RNG.integers(0, 10, 300)
    directions = RNG.standard_normal((10, 200))
    signal = directions[keys] + 0.5 * RNG.standard_normal((300, 200))
    there = decode(signal, keys)
    assert there.accuracy > 0.95 and there.asked == 100
    assert there.chance == np.bincount(keys[200:]).max() / 100
    noise = decode(RNG.standard_normal((300, 2000)), keys)
    assert noise.accuracy < 0.25
    commonest = np.bincount(keys[:200]).argmax()
    assert decode(np.ones((300, 4)), keys).correct == (keys[200:] == commonest).sum()
    # Units do not matter, nor does a large constant.
    shifted = decode(1e-3 * signal + 5.0, keys)
    assert shifted.correct == there.correct


def test_decode_parts():
    keys = RNG.integers(0, 5, (200, 2))  # two questions: one answered by each part
    tables = RNG.standard_normal((2, 5, 12))
    parts = {name: tables[i][keys[:, i]] for i, name in enumerate(("one", "two"))}
    found = decode_parts(parts, keys)
    assert found.keys() == {"one", "two", "all"} and found["all"].accuracy == 1.0
    assert found["all"].asked == 2 * 67
    for name in parts:
        assert 0.5 < found[name].accuracy < 0.75
    joined = decode(np.concatenate(list(parts.values()), 1), keys)
    assert joined.correct == found["all"].correct
