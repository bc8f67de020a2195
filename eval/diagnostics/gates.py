"""The gates G0 to G5 of GroundThink, and a gate of useful memory (docs/systems.md, G-80 to G-89).

Each gate maps numbers to a `Verdict`. Bounds (pass / warn / fail) are the source's; in a gap that
its table leaves, the verdict is "warn". A state that forgets everything within a few tokens
passes the gates G3.5 on movement, rank and saturation; `useful_memory` tests what is retained.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from eval.diagnostics.states import Evolution, entropy_label

CONTROL = ("pad", "unk", "bos", "eos", "system", "user", "assistant", "endofturn")
ORDER = ("pass", "skip", "warn", "fail")  # by severity


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Outcome of a gate.

    Attributes:
        gate: name, e.g. "G3.5 saturation".
        outcome: "pass", "warn", "fail", or "skip" if not applicable.
        value: the number judged, or None.
        says: the finding as text, with values and bounds.
    """

    gate: str
    outcome: str
    value: float | None
    says: str


def overall(verdicts: Sequence[Verdict]) -> str:
    """Return the worst outcome; "skip" only if all gates are skipped."""
    outcomes = [v.outcome for v in verdicts if v.outcome != "skip"]
    return max(outcomes, key=ORDER.index) if outcomes else "skip"


def control_tokens(tokenizer) -> Verdict:
    """Judge G0: every control token, e.g. `<|user|>`, must be one token (G-80)."""
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
    """Judge G1: the logits must have the expected shape and be finite (G-81)."""
    logits = np.asarray(logits)
    if logits.shape != tuple(shape):
        says = f"expected logits of shape {tuple(shape)}, got {logits.shape}"
        return Verdict("G1 forward", "fail", None, says)
    bad = int((~np.isfinite(logits)).sum())
    says = f"logits {logits.shape}, {'all finite' if not bad else f'{bad} of them NaN or Inf'}"
    return Verdict("G1 forward", "fail" if bad else "pass", float(bad), says)


def entropy_at_start(entropy: float, longest: int) -> Verdict:
    """Judge G2: state entropy of the untrained model, 2-5 / 1-2 or 5-7 / else (G-82).

    longest: length of the softmax axis; its log is the maximum entropy.
    """
    label = entropy_label(entropy)
    outcome = {"healthy": "pass", "low": "warn", "diverse": "warn"}.get(label, "fail")
    ceiling = math.log(longest)
    says = f"{entropy:.2f} nats at step 0, {label} (target: 2 to 5); maximum {ceiling:.2f}, the "
    says += "entropy of a zero state"
    return Verdict("G2 state entropy", outcome, entropy, says)


def early_training(losses: Sequence[float], grad_norms: Sequence[float]) -> Verdict:
    """Judge G3: over 1,000 steps the loss must fall, with a moderate gradient norm (G-83).

    Falls: the mean of the last tenth is below that of the first. Median norm: 0.5-1.5 passes, above
    5 or below 0.01 fails, otherwise warns.
    """
    if len(losses) < 2 or not grad_norms:
        return Verdict("G3 early training", "skip", None, "no losses and gradient norms logged")
    tenth = max(1, len(losses) // 10)
    first, last = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
    norm = float(np.median(grad_norms))
    outcome = "pass" if 0.5 <= norm <= 1.5 else "warn"
    if norm > 5.0 or norm < 0.01 or not math.isfinite(norm) or not last < first:
        outcome = "fail"
    says = f"loss {first:.3f} to {last:.3f}; median gradient norm {norm:.3g} (target: 0.5 to 1.5)"
    return Verdict("G3 early training", outcome, norm, says)


def cosine_variance(evolution: Evolution) -> Verdict:
    """Judge G3.5 by the source's table: variance of cosines, >0.1 / 0.01-0.1 / <0.01 (G-84).

    0.1 requires a standard deviation of 0.32, which the source's own recorded pass did not reach.
    """
    value = evolution.variance
    outcome = "pass" if value > 0.1 else "warn" if value >= 0.01 else "fail"
    says = f"variance {value:.4f} (target: above 0.1), standard deviation {value**0.5:.3f}"
    return Verdict("G3.5 cosine variance", outcome, value, says)


def movement(evolution: Evolution) -> Verdict:
    """Judge G3.5 by the source's script: the stillest layer's mean cosine; up to 0.99 passes."""
    least = max(evolution.by_layer)
    outcome = "fail" if evolution.label in ("FROZEN", "STATIC") else "pass"
    says = f"least moving layer {least:.4f}: {evolution.label}; {evolution.says} "
    says += f"({evolution.drift:+.4f})"
    return Verdict("G3.5 movement", outcome, least, says)


def low_rank_gate(ratio: float, rank: float, gaussian: float) -> Verdict:
    """Judge G3.5: lowest top-5 ratio of singular values, >0.8 / 0.5-0.8 / <0.5 (G-85).

    rank: mean effective rank; gaussian: ratio for noise of the same shape. Both are reported,
    because a collapsed or small state has a high ratio, too.
    """
    outcome = "pass" if ratio > 0.8 else "warn" if ratio >= 0.5 else "fail"
    says = f"top-5 ratio {ratio:.3f} (target: above 0.8; Gaussian noise {gaussian:.2f}), mean "
    says += f"effective rank {rank:.2f}; a high ratio can also mean collapse"
    return Verdict("G3.5 top-5 ratio", outcome, ratio, says)


def saturation_gate(fraction: float) -> Verdict:
    """Judge G3.5: fraction of entries beyond ±5, <10 % / 10-30 % / >30 % (G-86)."""
    outcome = "pass" if fraction < 0.1 else "warn" if fraction <= 0.3 else "fail"
    says = f"{fraction:.1%} of the state beyond 5 (target: below 10 %)"
    return Verdict("G3.5 saturation", outcome, fraction, says)


def balance(ratio: float, quantity: str = "gradient norm") -> Verdict:
    """Judge G3.5 and G4: RWKV's gradients over Mamba's, 0.3-3 / 0.1-10 / else (G-60, G-87).

    A diagnostic, not a goal: in the source's own runs the better loss had the worse balance.
    """
    outcome = "fail"
    if 0.3 <= ratio <= 3.0:
        outcome = "pass"
    elif 0.1 <= ratio <= 10.0:
        outcome = "warn"
    says = f"{quantity}, RWKV over Mamba: {ratio:.3f} (target: 0.3 to 3)"
    return Verdict(f"G3.5 balance, {quantity}", outcome, ratio, says)


def suite(
    results: Mapping[str, object], parts: Sequence[str], unasked: Sequence[str] = ()
) -> Verdict:
    """Judge G4: every part of the suite must yield a finite number or a finding (G-88).

    Args:
        results: results by part.
        parts: parts that were to run.
        unasked: parts that were left out on purpose; with any, the gate is skipped, not passed.
    """
    absent = [name for name in parts if not _measured(results.get(name))]
    if absent:
        says = f"{len(absent)} of {len(parts)} parts have no result: {', '.join(absent)}"
        return Verdict("G4 suite", "fail", float(len(absent)), says)
    if unasked:
        says = f"{len(parts)} of {len(parts) + len(unasked)} parts ran; not asked: "
        return Verdict("G4 suite", "skip", float(len(unasked)), says + ", ".join(unasked))
    return Verdict("G4 suite", "pass", 0.0, f"all {len(parts)} parts ran")


def _measured(value) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and any(_measured(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(_measured(v) for v in value)
    return math.isfinite(value) if isinstance(value, int | float) else bool(value)


def scale_up(loss: float, vocab_size: int) -> Verdict:
    """Judge G5: a loss below 6.5 nats per token permits scaling from 8M to 30M (G-89).

    Meant for a vocabulary of 24,576 (log 10.1); skipped if a uniform guess already passes.
    """
    guess = math.log(vocab_size)
    if guess < 6.5:
        says = f"not applicable: a uniform guess among {vocab_size} tokens has loss {guess:.2f}"
        return Verdict("G5 scale up", "skip", loss, says)
    outcome = "pass" if loss < 6.5 else "fail"
    return Verdict("G5 scale up", outcome, loss, f"loss {loss:.3f} (target: below 6.5)")


def useful_memory(correct: int, asked: int, chance: float, *, margin: float = 0.1) -> Verdict:
    """Judge recall of a key that was read some tokens before, missing from G3.5.

    Passes at chance + margin if accuracy also exceeds chance by three standard errors; warns if
    only the latter holds; otherwise fails.

    Args:
        correct, asked: counts of answers of the model, or of a probe on its state.
        chance: accuracy without memory.
        margin: required accuracy above chance.
    """
    accuracy = correct / asked
    error = math.sqrt(chance * (1.0 - chance) / asked)
    beyond = accuracy - chance > 3.0 * error
    outcome = "fail" if not beyond else "pass" if accuracy >= chance + margin else "warn"
    says = f"{accuracy:.1%} of {asked} right, chance {chance:.1%} (standard error {error:.1%}); "
    says += f"target {chance + margin:.1%}"
    return Verdict("useful memory", outcome, accuracy, says)
