"""Each rule on a curve on either side of its threshold."""

import numpy as np
import pytest

from train.control import curves, health

STEPS = list(range(100, 2001, 100))  # 20 validations
TRAIN_STEPS = list(range(10, 2001, 10))


def falling(steps, by=1.0, start=3.0):
    """A straight fall by `by` from first to last step."""
    at = np.asarray(steps, float)
    return (start - by * (at - at[0]) / (at[-1] - at[0])).tolist()


def noise(count, size, seed=0):
    signs = np.where(np.random.RandomState(seed).rand(count) < 0.5, -1.0, 1.0)
    return size * signs


def test_every_tooth_of_a_falling_saw_is_a_new_minimum():
    saw = [3.0, 3.4, 2.8, 3.2, 2.6, 3.0, 2.4]
    assert curves.minima(STEPS[:7], saw) == [100, 300, 500, 700]
    assert curves.minima([], []) == []


def test_improvement_interval_is_the_median_gap_of_new_minima():
    steps = [100, 200, 300, 400, 500, 600, 700, 800]
    values = [3.0, 2.9, 2.95, 2.8, 2.9, 2.9, 2.9, 2.7]
    assert curves.minima(steps, values) == [100, 200, 400, 800]
    assert curves.improvement_interval(steps, values) == 200.0  # of gaps 100, 200, 400
    assert curves.improvement_interval(steps, [1.0] * 8) is None
    # 2.9 after 3.0 is 3.3 % lower, 2.8 after 2.9 is 3.4 %, 2.7 after 2.8 is 3.6 %.
    assert curves.minima(steps, values, min_delta=0.035) == [100, 400, 800]


def test_patience_counts_improvement_intervals():
    values = falling(STEPS[:10]) + [2.5] * 10  # last minimum at 1000, interval 100
    for count, over in ((13, False), (14, False), (15, True)):
        assert curves.stale_steps(STEPS[:count], values[:count]) == 100 * (count - 10)
        assert curves.patience_exhausted(STEPS[:count], values[:count], factor=4.0) is over
    # A sawtooth with a new minimum every second value keeps its patience after four values.
    saw = [3.0 - 0.05 * i + (0.5 if i % 4 else 0.0) for i in range(16)]
    assert not curves.patience_exhausted(STEPS[:16], saw, factor=4.0)


@pytest.mark.parametrize("rise", [0.04, 0.06])
def test_overfit_rise_is_that_of_the_lowest_late_value(rise):
    values = [3.0, 2.5, 2.0, 2.0 * (1 + rise), 2.0 * (1 + rise), 2.0 * (1 + rise) + 0.01]
    train = falling(TRAIN_STEPS[:60])
    found = curves.overfit_rise(STEPS[:6], values, TRAIN_STEPS[:60], train)
    assert found == pytest.approx(rise)


def test_overfitting_needs_falling_training_loss_and_more_than_a_spike():
    values = [3.0, 2.5, 2.0, 2.3, 2.3, 2.3]
    train = falling(TRAIN_STEPS[:60])
    args = STEPS[:6], values, TRAIN_STEPS[:60]
    assert curves.overfit_rise(*args, train) > 0.14
    assert not curves.overfit_rise(*args, train[::-1])  # both rise: not overfitting
    assert not curves.overfit_rise(STEPS[:5], values[:5], TRAIN_STEPS[:50], train[:50])
    tooth = [3.0, 2.5, 2.0, 2.3, 2.01, 2.3]
    assert curves.overfit_rise(STEPS[:6], tooth, TRAIN_STEPS[:60], train) < 0.01


@pytest.mark.parametrize(
    ("share", "word"),
    [(0.005, "none"), (0.05, "safe"), (0.15, "watch"), (0.25, "converged")],
)
def test_plateau_classes(share, word):
    assert curves.plateau_class(share) == word


def test_plateaus_have_durations():
    values = [3.0, 2.9, 3.0, 3.0, 2.8, 2.7, 2.9, 2.9]
    found = curves.plateaus(STEPS[:8], values, min_steps=150)
    assert found == [(200, 500), (600, 800)]
    assert len(curves.plateaus(STEPS[:8], values, min_steps=250)) == 1
    assert curves.plateaus([], [], 1) == []


def test_flowchart_has_four_branches():
    assert curves.flowchart(STEPS, falling(STEPS)) == "falling"
    bent = [*falling(STEPS[:16]), 2.0, 2.1, 2.2, 2.3]
    assert curves.flowchart(STEPS, bent) == "rising"
    # Flat for the last fifth only: recheck; for the last third: converged.
    shaky = (2.0 + noise(20, 0.004)).tolist()
    assert curves.flowchart(STEPS, falling(STEPS[:16]) + shaky[:4]) == "fluctuating"
    assert curves.flowchart(STEPS, falling(STEPS[:12]) + shaky[:8]) == "flat"
    # The same third with noise above half a per cent is not flat.
    loud = (2.0 + noise(20, 0.03)).tolist()
    assert curves.flowchart(STEPS, falling(STEPS[:12]) + loud[:8]) != "flat"


def test_flowchart_distinguishes_a_steady_rise_from_jumps():
    start = falling(STEPS[:16], start=3.0)
    assert curves.flowchart(STEPS, [*start, 2.02, 2.04, 2.06, 2.08]) == "rising"
    assert curves.flowchart(STEPS, [*start, 2.02, 2.01, 2.005, 2.1]) == "fluctuating"
    # Rising from the best value, which is inside the window: continue.
    assert curves.flowchart(STEPS, [*start[:-1], 2.1, 2.0, 1.9, 2.0, 2.1][:20]) != "rising"
    assert curves.flowchart(STEPS, [*start, 2.002, 2.004, 2.003, 2.004]) == "fluctuating"


def test_heartbeat_is_a_small_new_minimum():
    assert curves.heartbeat([2.0] * 6 + [1.9999, 2.0, 2.0, 2.0])
    assert not curves.heartbeat([1.9999] + [2.0] * 5 + [1.99995, 2.0, 2.0, 2.0])
    assert not curves.heartbeat([2.0] * 6 + [1.9] + [2.0] * 5)  # too long ago
    assert not curves.heartbeat([3.0, 2.0])


def test_slope_of_log_loss():
    steps = np.arange(0, 2000, 10)
    curve = 3.0 * np.exp(-0.02 * steps / 1000)
    slope, _ = curves.log_slope(steps, curve)
    assert slope == pytest.approx(-0.02)
    assert curves.still_learning(steps, curve * np.exp(noise(200, 0.01)))
    flat = 3.0 * np.exp(noise(200, 0.01))
    assert not curves.still_learning(steps, flat)
    assert not curves.still_learning(steps, curve[::-1])
    assert not curves.still_learning([0, 10], [3.0, 2.0])


def test_perplexity_improving():
    assert curves.perplexity_improving([2.0, 2.1, 2.0, 1.99, 2.05, 2.0])
    assert not curves.perplexity_improving([2.0, 2.1, 2.0, 2.0, 2.1, 2.0])
    assert not curves.perplexity_improving([3.0, 2.0, 1.0])


def test_scatter_against_gain():
    line = np.array([2.0, 1.95, 1.9, 1.85, 1.8])  # gains 0.05 per checkpoint
    saw = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    assert not curves.scatter_exceeds_gain((line + 0.03 * saw).tolist())
    assert curves.scatter_exceeds_gain((line + 0.08 * saw).tolist())
    assert curves.scatter_exceeds_gain((2.0 + 0.001 * saw).tolist())  # no gain at all
    assert not curves.scatter_exceeds_gain([2.0, 3.0])


def test_probe_that_degrades():
    loss = [2.0, 2.0, 2.0, 1.9, 1.9, 1.9]
    assert curves.probe_degrades([0.8, 0.8, 0.8, 0.7, 0.7, 0.7], loss)
    assert not curves.probe_degrades([0.8, 0.8, 0.8, 0.79, 0.79, 0.79], loss)
    assert not curves.probe_degrades([0.8, 0.8, 0.8, 0.7, 0.7, 0.7], loss[::-1])
    assert not curves.probe_degrades([], loss)


def test_drops_without_improvement():
    values = [3.0, 2.0, 2.1, 2.1, 2.1]
    assert curves.fruitless_drops(STEPS[:5], values, [300, 400]) == 2
    assert curves.fruitless_drops(STEPS[:5], values, [100, 400]) == 1
    assert curves.fruitless_drops(STEPS[:5], [3.0, 2.0, 2.1, 2.1, 1.9], [300, 400]) == 0


def test_oscillation():
    trend = np.array([4.0, 3.0, 2.0, 1.0, 0.0])
    saw = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    assert health.oscillating((trend + 0.3 * saw).tolist())
    assert not health.oscillating((trend + 0.2 * saw).tolist())  # a steep fall is no swing
    assert not health.oscillating([1.0, 5.0])


def test_early_divergence():
    values = [3.0, 2.0, 2.2, 2.2]
    assert health.diverging_early([0.5, 1.0, 1.5, 2.0], values)
    assert not health.diverging_early([2.0, 4.0, 6.0, 8.0], values)
    assert not health.diverging_early([0.5, 1.0, 1.5, 2.0], [3.0, 2.0, 2.2, 2.05])


def test_collapsed_activations():
    rng = np.random.RandomState(0)
    constant = np.broadcast_to(rng.randn(8), (4, 16, 8))
    assert health.activation_collapsed(constant + 1e-6 * rng.randn(4, 16, 8))
    assert health.activation_collapsed(np.zeros((4, 16, 8)))
    assert not health.activation_collapsed(constant + 0.1 * rng.randn(4, 16, 8))
    one_alive = constant.copy()
    one_alive[:, :, 3] += rng.randn(4, 16)
    assert not health.activation_collapsed(one_alive)


def test_collapsed_decay():
    def collapsed(*channels):
        return health.decay_collapsed(np.broadcast_to(np.float64(channels), (2, 7, len(channels))))

    assert collapsed(*[0.005] * 64) == "0"
    assert collapsed(*[1 - 1e-7] * 64) == "1"
    assert collapsed(*[0.9999] * 64) == ""  # the identity initialization
    assert collapsed(*np.random.RandomState(0).rand(64)) == ""
    assert collapsed(*[1.0] * 18, *[0.5] * 2) == ""
    assert collapsed(*[1.0] * 19, 0.5) == "1"
    # A channel that keeps nothing of one token and all of the next has not collapsed.
    assert health.decay_collapsed(np.float64([[[0.0], [1.0]]])) == ""


def test_stuck_state():
    state = np.random.RandomState(0).randn(2, 4, 4)
    assert health.state_stuck(state, state * (1 + 1e-8))
    assert not health.state_stuck(state, state * (1 + 1e-3))
    assert health.state_stuck(np.zeros(3), np.zeros(3))
    assert not health.state_stuck(np.zeros(3), np.ones(3))


def test_signs_of_progress():
    assert health.gradients_vary({"rwkv": [1.0, 0.9, 1.1], "mamba": [0.1, 0.2, 0.1]})
    assert not health.gradients_vary({"rwkv": [1.0, 0.9, 1.1], "mamba": [0.1, 0.1, 0.1]})
    assert not health.gradients_vary({})
    assert health.entropy_alive([0.5, 2.0])
    assert not health.entropy_alive([0.0, 2.0])
    loud = np.asarray(falling(range(80))) + noise(80, 0.05)
    assert health.steadily_falling(loud)
    assert not health.steadily_falling(np.concatenate([loud[:60], loud[:20]]))
    assert not health.steadily_falling([3.0, 2.0])


def unaligned(norms):
    return health.unaligned(health.component_trends(norms))


def test_unaligned_components():
    steps = list(range(10))
    norms = {"mamba": (steps, falling(steps, by=0.9, start=1.0)), "rwkv": (steps, [1.0] * 10)}
    assert health.component_trends(norms) == {"mamba": "falling", "rwkv": "steady"}
    assert unaligned(norms) == "gradients of mamba die down while those of rwkv do not"
    assert unaligned({"mamba": norms["mamba"]}) == ""
    assert unaligned({"rwkv": norms["rwkv"], "other": norms["rwkv"]}) == ""
    up = {"rwkv": (steps, falling(steps, by=-0.9))}
    assert health.component_trends(up) == {"rwkv": "steady"}  # 3.0 to 3.9 is 26 % of the mean


def test_loss_shares_and_plateau_report():
    shares = health.loss_shares({"next_token": 3.0, "activity": 1.0})
    assert shares == {"next_token": 0.75, "activity": 0.25}
    assert health.loss_shares({"next_token": 0.0}) == {"next_token": 0.0}
    steps = list(range(10))
    norms = {"mamba": (steps, falling(steps, by=0.9, start=1.0)), "rwkv": (steps, [1.0] * 10)}
    lines = health.plateau_report(norms, {"next_token": 3.0, "activity": 1.0})
    assert lines[2].startswith("gradients of mamba die down")
    assert lines[3] == "shares of the loss: activity 25%, next_token 75%"
    assert lines[-1].startswith("to try")


@pytest.mark.parametrize(
    ("hybrid", "tolerance", "verdict"),
    [
        (1.5, 0.0, "wins"),
        (1.8, 0.0, "training"),
        (1.65, 0.0, "capacity"),
        (1.59, 0.02, "undecided"),
        (1.71, 0.02, "undecided"),
        (1.6, 0.0, "undecided"),
    ],
)
def test_hybrid_compared_with_baselines(hybrid, tolerance, verdict):
    got, sentence = health.diagnose_hybrid(hybrid, {"rwkv": 1.6, "mamba": 1.7}, tolerance)
    assert got == verdict
    assert f"hybrid {hybrid:.4f} against mamba 1.7000, rwkv 1.6000" in sentence
