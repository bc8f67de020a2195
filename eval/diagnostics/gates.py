"""The gates G0 to G5 of GroundThink, and the one they lack (SYSTEMS G-80 to G-89, 2.3, 9.3).

Each gate is a function of numbers and gives a `Verdict`. Thresholds are the source's; where its
table leaves a gap between two bounds, the verdict there is "warn". Of G3.5 three questions are
whether a state moves, has few directions and stays in range: a state that forgets everything within
a few tokens answers all three as hoped. `useful_memory` asks what they do not.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from eval.diagnostics.states import Evolution, entropy_label

CONTROL = ("pad", "unk", "bos", "eos", "system", "user", "assistant", "endofturn")
ORDER = ("pass", "skip", "warn", "fail")  # from good to bad


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a gate says.

    Attributes:
        gate: its name, e.g. "G3.5 saturation".
        outcome: "pass", "warn", "fail", or "skip" where the question has no meaning.
        value: the number judged, None if it is no number.
        says: the finding in words, with the numbers and the bounds.
    """

    gate: str
    outcome: str
    value: float | None
    says: str


def overall(verdicts: Sequence[Verdict]) -> str:
    """The worst outcome; "skip" only if all are."""
    asked = [v.outcome for v in verdicts if v.outcome != "skip"]
    return max(asked, key=ORDER.index) if asked else "skip"


def control_tokens(tokenizer) -> Verdict:
    """G0: every control token, written `<|user|>`, is one token of its own (G-80)."""
    lengths, ids = {}, []
    for name in CONTROL:
        encoded = np.asarray(tokenizer.encode(f"<|{name}|>"))
        lengths[name] = len(encoded)
        ids.extend(encoded[:1].tolist())
    split = [name for name, length in lengths.items() if length != 1]
    if split:
        says = f"<|{split[0]}|> is {lengths[split[0]]} tokens under the {tokenizer.name} tokenizer"
        return Verdict("G0 control tokens", "fail", float(len(split)), says)
    if len(set(ids)) < len(ids):
        return Verdict("G0 control tokens", "fail", 0.0, "two control tokens share an id")
    says = f"all {len(CONTROL)} control tokens are one token each"
    return Verdict("G0 control tokens", "pass", 0.0, says)


def forward(logits, shape: tuple[int, ...]) -> Verdict:
    """G1: the logits have the promised shape and are finite (G-81)."""
    logits = np.asarray(logits)
    if logits.shape != tuple(shape):
        says = f"logits have shape {logits.shape}, not {tuple(shape)}"
        return Verdict("G1 forward", "fail", None, says)
    bad = int((~np.isfinite(logits)).sum())
    says = f"logits {logits.shape}, {'all finite' if not bad else f'{bad} of them not finite'}"
    return Verdict("G1 forward", "fail" if bad else "pass", float(bad), says)


def entropy_at_start(entropy: float, longest: int) -> Verdict:
    """G2: state entropy of the untrained model, 2-5 / 1-2 or 5-7 / else (G-82).

    longest: length of the axis the softmax runs over, whose log is the largest entropy possible.
    """
    label = entropy_label(entropy)
    outcome = {"healthy": "pass", "low": "warn", "diverse": "warn"}.get(label, "fail")
    ceiling = math.log(longest)
    says = f"{entropy:.2f} nats at step 0, {label} (2 to 5 wanted); at most {ceiling:.2f}, which a "
    says += "state of zeros has"
    return Verdict("G2 state entropy", outcome, entropy, says)


def early_training(losses: Sequence[float], grad_norms: Sequence[float]) -> Verdict:
    """G3: over the first 1,000 steps the loss falls and the gradient norm is sound (G-83).

    Falls: the mean of the last tenth is below that of the first. Norm (median): 0.5-1.5 passes; up
    to 3 and what the source's table leaves open warns; above 5 or below 0.01 fails.
    """
    if len(losses) < 2 or not grad_norms:
        return Verdict("G3 early training", "skip", None, "no losses and gradient norms logged")
    tenth = max(1, len(losses) // 10)
    first, last = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
    norm = float(np.median(grad_norms))
    outcome = "pass" if 0.5 <= norm <= 1.5 else "warn"
    if norm > 5.0 or norm < 0.01 or not math.isfinite(norm) or not last < first:
        outcome = "fail"
    says = f"loss {first:.3f} to {last:.3f}; median gradient norm {norm:.3g} (0.5 to 1.5 wanted)"
    return Verdict("G3 early training", outcome, norm, says)


def cosine_variance(found: Evolution) -> Verdict:
    """G3.5 by the table: variance of consecutive cosines, >0.1 / 0.01-0.1 / <0.01 (G-84).

    0.1 needs a standard deviation of 0.32, which the source's own recorded pass did not reach.
    """
    value = found.variance
    outcome = "pass" if value > 0.1 else "warn" if value >= 0.01 else "fail"
    says = f"variance {value:.4f} (above 0.1 wanted, standard deviation {value**0.5:.3f})"
    return Verdict("G3.5 cosine variance", outcome, value, says)


def movement(found: Evolution) -> Verdict:
    """G3.5 by the script: the mean cosine of the layer that moves least, up to 0.99 passes."""
    least = max(found.by_layer)
    outcome = "fail" if found.label in ("FROZEN", "STATIC") else "pass"
    says = f"least moving layer {least:.4f}: {found.label}; {found.says} ({found.drift:+.4f})"
    return Verdict("G3.5 movement", outcome, least, says)


def low_rank_gate(ratio: float, rank: float, gaussian: float) -> Verdict:
    """G3.5: the lowest top-5 share of singular values, >0.8 / 0.5-0.8 / <0.5 (G-85).

    rank: mean effective rank; gaussian: the share for noise of the same shape. Both are said,
    because a high share is also what a collapsed, or small, state has.
    """
    outcome = "pass" if ratio > 0.8 else "warn" if ratio >= 0.5 else "fail"
    says = f"top 5 hold {ratio:.3f} (above 0.8 wanted; Gaussian noise of this shape {gaussian:.2f})"
    says += f", mean effective rank {rank:.2f}: a high share can also be collapse"
    return Verdict("G3.5 top-5 ratio", outcome, ratio, says)


def saturation_gate(share: float) -> Verdict:
    """G3.5: share of entries beyond 5 in size, <10 % / 10-30 % / >30 % (G-86)."""
    outcome = "pass" if share < 0.1 else "warn" if share <= 0.3 else "fail"
    says = f"{share:.1%} of the state beyond 5 (below 10 % wanted)"
    return Verdict("G3.5 saturation", outcome, share, says)


def balance(ratio: float, what: str = "gradient norm") -> Verdict:
    """G3.5 and G4: gradients of RWKV over Mamba, 0.3-3 / 0.1-0.3 or 3-10 / else (G-60, G-87).

    A diagnostic, not an aim: in the source's own runs the better loss had the worse balance.
    """
    outcome = "fail"
    if 0.3 <= ratio <= 3.0:
        outcome = "pass"
    elif 0.1 <= ratio <= 10.0:
        outcome = "warn"
    says = f"{what}, RWKV over Mamba: {ratio:.3f} (0.3 to 3 wanted)"
    return Verdict(f"G3.5 balance, {what}", outcome, ratio, says)


def suite(results: Mapping[str, object], wanted: Sequence[str]) -> Verdict:
    """G4: every part of the suite ran and left a finite number or a finding (G-88)."""
    absent = [name for name in wanted if not _measured(results.get(name))]
    if absent:
        says = f"{len(absent)} of {len(wanted)} parts gave nothing: {', '.join(absent)}"
        return Verdict("G4 suite", "fail", float(len(absent)), says)
    return Verdict("G4 suite", "pass", 0.0, f"all {len(wanted)} parts ran")


def _measured(value) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and any(_measured(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(_measured(v) for v in value)
    return math.isfinite(value) if isinstance(value, int | float) else bool(value)


def scale_up(loss: float, vocab_size: int) -> Verdict:
    """G5: a loss below 6.5 nats a token lets 8M grow to 30M (G-89).

    Meant for a vocabulary of 24,576 (log 10.1). Where a model that guesses already passes, the gate
    says nothing.
    """
    guess = math.log(vocab_size)
    if guess < 6.5:
        says = f"without meaning here: guessing among {vocab_size} tokens costs {guess:.2f} already"
        return Verdict("G5 scale up", "skip", loss, says)
    outcome = "pass" if loss < 6.5 else "fail"
    return Verdict("G5 scale up", outcome, loss, f"loss {loss:.3f} (below 6.5 wanted)")


def useful_memory(correct: int, asked: int, chance: float, *, margin: float = 0.1) -> Verdict:
    """The gate G3.5 lacks: can what was read be told from the state, or from an answer, later on?

    Args:
        correct, asked: answers of a probe on the state (or of the model) about a key read some
            tokens before.
        chance: accuracy without any memory.
        margin: what the accuracy must exceed chance by to pass.

    Passes at chance + margin if that is also beyond chance by three standard errors; warns if only
    the latter; else fails.
    """
    accuracy = correct / asked
    error = math.sqrt(chance * (1.0 - chance) / asked)
    beyond = accuracy - chance > 3.0 * error
    outcome = "fail" if not beyond else "pass" if accuracy >= chance + margin else "warn"
    says = f"{accuracy:.1%} of {asked} right, chance {chance:.1%} (standard error {error:.1%}); "
    says += f"{chance + margin:.1%} wanted"
    return Verdict("useful memory", outcome, accuracy, says)
