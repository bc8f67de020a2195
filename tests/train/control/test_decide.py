"""Decisions of the controller on synthetic runs, their order, and their reproducibility."""

import pytest

from train.control.decide import CONTINUE, INVESTIGATE, LOWER_LR, STOP, History, Settings, decide

TOTAL, EVERY = 2000, 100


def replay(valid, settings, train=None, **fields):
    """Decisions after each validation, each seeing only what was logged before it."""
    history = History(TOTAL, **fields)
    decisions = []
    for number, loss in enumerate(valid):
        step = EVERY * (number + 1)
        for at in range(step - EVERY + 10, step + 1, 10):
            history.add(at, "train", {"loss": train(at) if train else 3.0 - at / TOTAL})
        history.add(step, "valid", {"loss": loss})
        decision = decide(history, settings)
        if history.worth_logging(decision):
            history.add(step, "control", {"action": decision.action, "reason": decision.reason})
        decisions.append((step, decision))
    return history, decisions


def actions(decisions):
    return [(step, d.action) for step, d in decisions if d.action != CONTINUE]


def falling_then(tail, count=10):
    return [3.0 - 0.1 * i for i in range(count)] + list(tail)


def test_falling_curve_continues():
    _, decisions = replay(falling_then([], 20), Settings())
    assert actions(decisions) == []
    assert "held-out perplexity improves" in decisions[-1][1].reason


def test_overfitting_stops_at_its_threshold():
    best = 2.1
    for rise, expected in ((0.04, []), (0.06, [(1300, STOP)])):
        valid = falling_then([best * (1 + rise), best * (1 + rise + 0.01), best * (1 + rise)])
        _, decisions = replay(valid, Settings())
        assert actions(decisions) == expected, rise
    assert decisions[-1][1].reason.startswith("overfitting: validation is 6.0% above its best 2.1")
    lenient = Settings(overfit_rise=0.1)
    assert "overfitting" not in replay(valid, lenient)[1][-1][1].reason


def test_steady_rise_stops_without_overfitting():
    valid = falling_then([2.12, 2.14, 2.16, 2.18])
    _, decisions = replay(valid, Settings(), train=lambda at: 2.0)
    assert actions(decisions)[-1][1] == STOP
    assert "rises steadily" in decisions[-1][1].reason


def plateau(count):
    """From step 1000 on a shaking plateau: neither flat within half a per cent, nor rising."""
    return falling_then([(2.13, 2.16)[i % 2] for i in range(count)])


def test_plateau_investigates_then_lowers_then_stops():
    history, decisions = replay(plateau(10), Settings(), train=lambda at: 2.0)
    # 10 % of the run after the minimum at 1000, then the next validation; 15 % held each time.
    assert actions(decisions) == [(1300, INVESTIGATE), (1400, LOWER_LR), (1800, LOWER_LR)]
    reason = dict(decisions)[1300].reason
    assert reason.startswith("plateau 1: no new minimum for 15.0% of the run")
    assert "to try, one at a time" in reason
    assert dict(decisions)[1400].lr_factor == pytest.approx(0.6)
    assert dict(decisions)[1500].reason == "the rate was lowered at step 1400; 200 steps more"
    assert history.drops == [1400, 1800]
    _, decisions = replay(plateau(10), Settings(hold=0.1), train=lambda at: 2.0)
    assert actions(decisions)[-1] == (2000, STOP)
    assert decisions[-1][1].reason.endswith("; 2 lowered rates brought nothing")


@pytest.mark.parametrize("ends", (800, 1300))
def test_components_are_judged_since_the_plateau_began(ends):
    """A norm that fell before the last minimum says nothing about the plateau after it (G-49)."""
    history = History(TOTAL)
    for number, loss in enumerate(plateau(3)):
        step = EVERY * (number + 1)
        for at in range(step - EVERY + 10, step + 1, 10):
            norms = {"grad_norm/mamba": 1.0 - 0.9 * min(at / ends, 1.0), "grad_norm/rwkv": 1.0}
            history.add(at, "train", {"loss": 2.0} | norms)
        history.add(step, "valid", {"loss": loss})
    decision = decide(history, Settings())
    assert decision.action == INVESTIGATE
    died = "gradients of mamba die down while those of rwkv do not"
    assert (died in decision.reason) == (ends == 1300)
    assert ("gradient norm of mamba: steady" in decision.reason) == (ends == 800)


def test_new_minimum_ends_a_plateau():
    valid = [*plateau(5), 2.0, 2.1, 2.13]
    _, decisions = replay(valid, Settings(), train=lambda at: 2.0)
    assert actions(decisions) == [(1300, INVESTIGATE), (1400, LOWER_LR)]


def test_investigate_and_drops_can_be_disabled():
    _, decisions = replay(plateau(4), Settings(investigate=False), train=lambda at: 2.0)
    assert actions(decisions) == [(1300, LOWER_LR)]
    settings = Settings(investigate=False, max_drops=0)
    _, decisions = replay(plateau(4), settings, train=lambda at: 2.0)
    assert actions(decisions)[0] == (1300, STOP)


def test_patience_waits_while_loss_and_perplexity_improve():
    """Best at 1000 by a stroke of luck, and a curve that falls slowly towards it."""
    valid = [*falling_then([], 9), 1.9, 2.05, 2.0, 1.99, 1.98, 1.97, 1.96]
    settings = Settings(converged=0.4, investigate=False)
    _, decisions = replay(valid, settings)
    assert actions(decisions) == []
    _, decisions = replay(valid, settings, train=lambda at: 2.0)
    assert actions(decisions) == [(1300, LOWER_LR)]
    assert "it scatters by more than it improves" in dict(decisions)[1300].reason
    # A plateau beyond `converged` is final, whatever training does.
    _, decisions = replay(valid, Settings(converged=0.2, investigate=False))
    assert actions(decisions) == [(1500, LOWER_LR)]
    assert "more than 20% is converged" in decisions[-2][1].reason


def test_plateau_budget():
    valid = [3.0, 2.9, 2.8]
    for level in (2.8, 2.7, 2.6):
        valid += [level + 0.03, level + 0.06, level + 0.03, level - 0.1]
    valid += [2.53, 2.56, 2.53]
    settings = Settings(plateau_budget=3, max_drops=9)
    _, decisions = replay(valid, settings, train=lambda at: 2.0)
    assert actions(decisions)[-1] == (1800, STOP)
    assert "plateau 4, the budget is 3" in decisions[-1][1].reason
    _, decisions = replay(valid, Settings(plateau_budget=4, max_drops=9), train=lambda at: 2.0)
    assert STOP not in dict(actions(decisions)).values()


def test_red_flags_are_reported_once():
    valid = [*falling_then([], 6), 2.0, 3.0, 2.0, 3.0, 2.0, 3.0]
    history, decisions = replay(valid, Settings(), train=lambda at: 2.0)
    assert actions(decisions)[0] == (800, INVESTIGATE)
    assert dict(decisions)[800].reason == "red flag: validation loss swings by more than 0.5"
    assert [step for step, action in history.decisions if action == INVESTIGATE] == [800]
    _, decisions = replay(valid[:9], Settings(oscillation=2.0), train=lambda at: 2.0)
    assert actions(decisions) == []


def test_early_divergence_is_a_red_flag():
    valid = [2.4, 2.2, 2.0, 2.15, 2.2]
    settings = Settings(early_epochs=5.0)
    _, early = replay(valid, settings, train=lambda at: 2.0, steps_per_epoch=200.0)
    assert actions(early) == [(500, INVESTIGATE)]
    assert early[-1][1].reason == "red flag: validation diverges in epoch 2.5 already"
    _, late = replay(valid, settings, train=lambda at: 2.0, steps_per_epoch=100.0)
    assert actions(late) == []


def test_diagnostic_flag_investigates():
    history = History(TOTAL)
    for step in (100, 200, 300):
        history.add(step, "valid", {"loss": 3.0 - step / 1000})
    history.add(300, "flag", {"reason": "decay of layer 3 collapsed to 0"})
    decision = decide(history, Settings())
    assert decision.action == INVESTIGATE
    assert decision.reason == "red flag: decay of layer 3 collapsed to 0"


def test_degrading_probe_stops():
    history = History(TOTAL, probe_name="passkey")
    for number, score in enumerate([0.8, 0.8, 0.8, 0.6, 0.6, 0.6]):
        step = 100 * (number + 1)
        history.add(step, "train", {"loss": 3.0 - 0.1 * number})
        history.add(step, "valid", {"loss": 3.0 - 0.1 * number, "passkey": score})
    assert decide(history, Settings(probe="passkey")).reason.startswith("passkey gets worse")
    history.probe[3:] = [0.79] * 3
    assert decide(history, Settings(probe="passkey")).action == CONTINUE


def test_target_loss_stops_early():
    history = History(TOTAL)
    history.add(100, "valid", {"loss": 6.9})
    assert decide(history, Settings(target_loss=7.0)).action == STOP
    assert decide(history, Settings(target_loss=6.5)).reason == "too early to say"
    assert decide(History(TOTAL), Settings()).action == CONTINUE


SIGNS = ("training loss falls steadily", "every component varies", "no state has collapsed")


@pytest.mark.parametrize("missing", ["", *SIGNS])
def test_only_present_signs_of_progress_are_named(missing):
    history = History(TOTAL)
    for number in range(20):
        step = EVERY * (number + 1)
        for at in range(step - EVERY + 10, step + 1, 10):
            tooth = 0.1 * (at % 50 == 0)
            loss = 2.0 + 3 * tooth if missing == SIGNS[0] else 3.0 - at / TOTAL
            asleep = 0.5 if missing == SIGNS[1] else 0.5 + tooth
            norms = {"grad_norm/rwkv": 1.0 + tooth, "grad_norm/mamba": asleep}
            history.add(at, "train", {"loss": loss} | norms)
        entropy = 0.0 if missing == SIGNS[2] else 2.0
        seen = {"state_entropy/rwkv": 1.5, "state_entropy/mamba": entropy, "state_norm/rwkv": 0.0}
        history.add(step, "flag", seen)
        history.add(step, "valid", {"loss": 3.0 - 0.1 * number})
    decision = decide(history, Settings())
    assert decision.action == CONTINUE
    for sign in SIGNS:
        assert (sign in decision.reason) == (sign != missing)


def test_repeated_continue_is_not_logged():
    history, _ = replay(plateau(10), Settings(), train=lambda at: 2.0)
    assert history.decisions == [
        (1300, INVESTIGATE),
        (1400, LOWER_LR),
        (1500, CONTINUE),
        (1800, LOWER_LR),
        (1900, CONTINUE),
    ]


def test_history_from_log_lines_decides_the_same():
    lines = []

    class Recorded(History):
        def add(self, step, split, values):
            lines.append((step, split, values))
            super().add(step, split, values)

    history = Recorded(TOTAL)
    for number, loss in enumerate(plateau(10)):
        step = EVERY * (number + 1)
        history.add(step, "train", {"loss": 2.0, "weight/a": 0.5, "a": 3.0, "grad_norm/rwkv": 1.0})
        history.add(step, "valid", {"loss": loss})
        decision = decide(history, Settings())
        again = History(TOTAL)
        for line in lines:
            again.add(*line)
        assert decide(again, Settings()) == decision
        if history.worth_logging(decision):
            history.add(step, "control", {"action": decision.action, "reason": decision.reason})
    assert history.terms == {"a": 1.5}
    assert history.norms["rwkv"] == ([EVERY * (i + 1) for i in range(20)], [1.0] * 20)
    assert len(history.decisions) == 5
