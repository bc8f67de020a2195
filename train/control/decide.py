"""Decisions of the controller, from a run's logged history (docs/systems.md, G-26 to G-50).

    decision = decide(history, settings)     # CONTINUE, LOWER_LR, INVESTIGATE or STOP, and why

`decide` is a pure function of the history, so a resumed run, whose history is read from
metrics.jsonl, takes the same decisions. `curves.py` and `health.py` hold the rules; their order:

1. the target loss is reached                                       STOP
2. too early to say                                                 CONTINUE
3. overfitting; a probe that degrades; validation that rises        STOP
4. within `hold` of a lowered rate: 10 to 20 % more steps           CONTINUE
5. red flags, once until the next new minimum                       INVESTIGATE
6. a plateau: recognized, INVESTIGATE (small models); if it lasts, LOWER_LR by 30 to 50 %; after
   `max_drops` lowered rates without a new minimum, or one plateau more than the budget, STOP
7. else, with the signs of progress (G-45, G-48)                    CONTINUE

The source calls 1 to 10 % of the run without a new minimum safe (G-43) and also asks to stop after
3 to 5 improvement intervals (G-40): patience applies only beyond the safe fraction. Each lowered
rate starts a new attempt, so "more than 20 % is converged" stops at once only with `max_drops` 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from train.control import curves, health
from train.control.curves import Steps, Values
from train.control.fields import Settings

CONTINUE, LOWER_LR, INVESTIGATE, STOP = "CONTINUE", "LOWER_LR", "INVESTIGATE", "STOP"


@dataclass(frozen=True)
class Decision:
    """An action, its reason, and the factor on the learning rate (1 = unchanged)."""

    action: str
    reason: str
    lr_factor: float = 1.0


@dataclass
class History:
    """The logged history of a run.

    Attributes:
      total_steps: planned steps.
      steps_per_epoch: steps per pass over the training data; 0 = unknown.
      probe_name: `control.probe`.
      train_steps, train: main loss of single logged batches.
      steps, valid, probe: validation loss, and the probe metric if logged.
      decisions: (step, action) of the logged decisions.
      flags: (step, sentence) of red flags, from lines of split "flag".
      entropies: last state entropy by component; empty without `control.watch`.
      norms: gradient norm by component, from train metrics "grad_norm/<component>".
      terms: the last weighted loss terms.
    """

    total_steps: int
    steps_per_epoch: float = 0.0
    probe_name: str = ""
    train_steps: list[int] = field(default_factory=list)
    train: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    valid: list[float] = field(default_factory=list)
    probe: list[float] = field(default_factory=list)
    decisions: list[tuple[int, str]] = field(default_factory=list)
    flags: list[tuple[int, str]] = field(default_factory=list)
    entropies: dict[str, float] = field(default_factory=dict)
    norms: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)

    def add(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Add a line of metrics.jsonl; splits that no rule reads are ignored."""
        if split == "train":
            self.train_steps.append(step)
            self.train.append(values.get("next_token", values["loss"]))
            weights = {name: values.get(f"weight/{name}") for name in values}
            self.terms = {n: w * values[n] for n, w in weights.items() if w is not None}
            for name, value in values.items():
                if name.startswith("grad_norm/"):
                    at, norms = self.norms.setdefault(name.removeprefix("grad_norm/"), ([], []))
                    at.append(step)
                    norms.append(value)
        elif split == "valid":
            self.steps.append(step)
            self.valid.append(values["loss"])
            if self.probe_name in values:
                self.probe.append(values[self.probe_name])
        elif split == "control":
            self.decisions.append((step, values["action"]))
        elif split == "flag":
            self.entropies = {
                name.removeprefix("state_entropy/"): x
                for name, x in values.items()
                if name.startswith("state_entropy/")
            }
            if "reason" in values:
                self.flags.append((step, values["reason"]))

    @property
    def drops(self) -> list[int]:
        """Return the steps at which the learning rate was lowered (G-73)."""
        return [step for step, action in self.decisions if action == LOWER_LR]

    def worth_logging(self, decision: Decision) -> bool:
        """Return False only for a CONTINUE that follows a CONTINUE."""
        before = self.decisions[-1][1] if self.decisions else CONTINUE
        return decision.action != CONTINUE or before != CONTINUE

    def since_drop(self) -> float:
        """Return the steps since the learning rate was last lowered."""
        return self.steps[-1] - self.drops[-1] if self.drops else float("inf")


def decide(history: History, settings: Settings) -> Decision:
    """Decide after the last validation in `history`; deterministic, no side effects."""
    h, s = history, settings
    if not h.valid:
        return Decision(CONTINUE, "no validation yet")
    if s.target_loss and h.valid[-1] <= s.target_loss:
        return Decision(STOP, f"validation loss {h.valid[-1]:.4f} reached {s.target_loss:g}")
    if h.steps[-1] < s.start * h.total_steps or len(h.valid) < 3:
        return Decision(CONTINUE, "too early to say")
    return _harm(h, s) or _hold(h, s) or _red_flags(h, s) or _plateau(h, s) or _continue(h, s)


def _harm(h: History, s: Settings) -> Decision | None:
    rise = curves.overfit_rise(h.steps, h.valid, h.train_steps, h.train)
    if rise > s.overfit_rise:
        best = min(h.valid)
        return Decision(
            STOP,
            f"overfitting: validation is {rise:.1%} above its best {best:.4f} while training falls",
        )
    if curves.probe_degrades(h.probe, h.train):
        return Decision(STOP, f"{s.probe} gets worse while training loss falls")
    if h.since_drop() > s.hold * h.total_steps and curves.flowchart(h.steps, h.valid) == "rising":
        return Decision(STOP, "validation rises steadily over the last 15 % of the steps")
    return None


def _hold(h: History, s: Settings) -> Decision | None:
    rest = s.hold * h.total_steps - h.since_drop()
    if rest < 0:
        return None
    return Decision(CONTINUE, f"the rate was lowered at step {h.drops[-1]}; {rest:.0f} steps more")


def _red_flags(h: History, s: Settings) -> Decision | None:
    flags = [sentence for step, sentence in h.flags if step == h.steps[-1]]
    if health.oscillating(h.valid, limit=s.oscillation):
        flags.append(f"validation loss swings by more than {s.oscillation:g}")
    if h.steps_per_epoch:
        epochs = [step / h.steps_per_epoch for step in h.steps]
        if health.diverging_early(epochs, h.valid, s.early_epochs, s.overfit_rise):
            flags.append(f"validation diverges in epoch {epochs[-1]:.1f} already")
    if not flags or _investigated(h, s):
        return None
    return Decision(INVESTIGATE, f"red flag: {'; '.join(flags)}")


def _plateau(h: History, s: Settings) -> Decision | None:
    share = curves.stale_steps(h.steps, h.valid, s.min_delta) / h.total_steps
    signs, final = [], False
    if share > s.converged:
        signs.append(f"more than {s.converged:.0%} is converged")
        final = True
    if curves.flowchart(h.steps, h.valid) == "flat":
        signs.append("flat over the last 30 % of the steps")
        final = True
    if share > s.plateau:
        if curves.patience_exhausted(h.steps, h.valid, s.patience, s.min_delta):
            interval = curves.improvement_interval(h.steps, h.valid, s.min_delta)
            signs.append(f"{s.patience:g} improvement intervals of {interval:g} steps are over")
        if curves.scatter_exceeds_gain(h.valid):
            signs.append("it scatters by more than it improves")
    if not signs or (not final and _improving(h)):
        return None
    what = f"no new minimum for {share:.1%} of the run: {', '.join(signs)}"
    count = len(curves.plateaus(h.steps, h.valid, s.plateau * h.total_steps, s.min_delta))
    drops = curves.fruitless_drops(h.steps, h.valid, h.drops, s.min_delta)
    if count > s.plateau_budget:
        return Decision(STOP, f"{what}; plateau {count}, the budget is {s.plateau_budget}")
    if drops >= s.max_drops:
        after = f"; {drops} lowered rates brought nothing" if drops else ""
        return Decision(STOP, what + after)
    if s.investigate and not drops and not _investigated(h, s):
        hints = health.plateau_report(_norms_on_plateau(h, s), h.terms)
        return Decision(INVESTIGATE, f"plateau {max(count, 1)}: {what}; {'; '.join(hints)}")
    return Decision(LOWER_LR, f"{what}; rate cut by {s.lr_cut:.0%}", 1.0 - s.lr_cut)


def _continue(h: History, s: Settings) -> Decision:
    signs = []
    if curves.heartbeat(h.valid):
        signs.append("new minima among the last validations")
    if curves.perplexity_improving(h.valid):
        signs.append("held-out perplexity improves")
    late, losses = _late_training(h)
    if health.steadily_falling(losses):
        signs.append("training loss falls steadily")
    elif curves.still_learning(late, losses):
        signs.append("training loss falls")
    if health.gradients_vary(_late_norms(h)):
        signs.append("the gradient of every component varies")
    if health.entropy_alive(list(h.entropies.values())):
        signs.append("no state has collapsed")
    share = curves.stale_steps(h.steps, h.valid, s.min_delta) / h.total_steps
    plateau = curves.plateau_class(share)
    signs += [f"a plateau of {share:.1%} of the run ({plateau})"] if plateau != "none" else []
    return Decision(CONTINUE, ", ".join(signs) or "nothing speaks against it")


def _improving(h: History) -> bool:
    """Return True for progress that outweighs patience and scatter, but no final plateau (G-45)."""
    return curves.perplexity_improving(h.valid) and curves.still_learning(*_late_training(h))


def _late_training(h: History) -> tuple[Steps, Values]:
    if not h.train_steps:
        return [], []
    return curves.recent(h.train_steps, h.train, 0.15 * h.train_steps[-1])


def _late_norms(h: History) -> dict[str, Values]:
    spans = {name: 0.15 * steps[-1] for name, (steps, _) in h.norms.items()}
    return {name: curves.recent(*h.norms[name], span)[1] for name, span in spans.items()}


def _norms_on_plateau(h: History, s: Settings) -> dict[str, tuple[Steps, Values]]:
    """Return each component's gradient norms since the last new minimum."""
    since = max(curves.minima(h.steps, h.valid, s.min_delta), default=0)
    return {
        name: curves.recent(steps, values, steps[-1] - since)
        for name, (steps, values) in h.norms.items()
    }


def _investigated(h: History, s: Settings) -> bool:
    """Return whether INVESTIGATE was decided since the last new minimum."""
    since = max(curves.minima(h.steps, h.valid, s.min_delta), default=0)
    return any(step > since and action == INVESTIGATE for step, action in h.decisions)
