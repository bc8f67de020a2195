"""Questions of the source that its matrix leaves open (docs/systems.md, G-97 to G-99).

    python -m eval.sweep --config=configs/groundthink/questions.py --workdir=runs/scaling
                         --preset scaling|decay|curriculum|importance|rates[-smoke]

scaling     G-97: state of 8 to 64 and context of 32 to 256 tokens (rows and attention window), at
            equal tokens, with the operations of a step: does a doubled state cost sqrt(2), where a
            doubled context costs 2? Also the best share of state at equal parameters (G-98).
decay       G-98: forgetting by importance (write gate, no attention) against forgetting by the
            window of attention.
curriculum  G-98: the four kinds of questions in phases of their own, against the same amounts of
            each in one mixture, in the reverse order, and none. All are validated on all sources.
importance  G-99: a loss weighted by importance; does it gain 10 to 20 % of accuracy?
rates       G-99: two rates of decay; do they reach the loss of the usual spread with 30 % less
            compute?

Three seeds, 300 steps of 12 layers x 64; "-smoke": two steps of 6 layers x 32. Without --data, the
text is the State of the Union speeches.
"""

import itertools
from collections.abc import Callable
from typing import Any

from configs.common import choose_preset, entry
from configs.groundthink import cpu, identity
from jaxmodels.data.text.mixture import IDENTITY_PHASES

ISO = "channel_expansion"  # solved for, to match the parameters of the baseline
TINY = {"width": 32, "num_layers": 6, "head_size": 8, "norm_every": 8, "attn_window": 8}
TOKENS = 1024  # of a step
SMOKE = 1 / 16  # of rows, contexts and tokens


def _scaling(factor: float) -> dict[str, Any]:
    entries = {"base": entry("variant", "state 16, context 64")}
    for state in (8, 32, 64):
        name = f"state {state}"
        entries[name] = entry("variant", "Mamba's state", state_dim=state)
        entries[f"{name}, equal parameters"] = entry(
            "variant", "at the cost of channel mixing", ISO, state_dim=state
        )
    for context in (32, 128, 256):
        length = max(int(context * factor), 1)
        rows = {"seq_len": length, "batch_size": int(TOKENS * factor) // length}
        entries[f"context {context}"] = entry(
            "variant", "rows and window", attn_window=length, **rows
        )
    questions = {
        "state": ("state 32", "base", "Is a doubled state better?"),
        "context": ("context 128", "base", "Is a doubled context better?"),
        "state or context": ("state 32", "context 128", "Is it better than a doubled context?"),
    }
    questions |= {
        f"share {n}": (f"state {n}, equal parameters", "base", f"Is a state of {n} worth its size?")
        for n in (8, 32, 64)
    }
    return {"entries": entries, "questions": questions}


def _decay(factor: float) -> dict[str, Any]:
    del factor
    gate = {"write_gate": True, "attention_layers": ()}
    return {
        "entries": {
            "attention decay": entry("variant", "the window of the anchor forgets"),
            "importance decay": entry("variant", "a gate on writing, no anchor", ISO, **gate),
            "neither": entry("variant", "no anchor, no gate", ISO, attention_layers=()),
        },
        "questions": {
            "decay": ("importance decay", "attention decay", "Is decay by importance better?"),
            "gate": ("importance decay", "neither", "Does the gate help without an anchor?"),
        },
    }


def _curriculum(factor: float) -> dict[str, Any]:
    del factor
    config = identity.get_config()
    mixture = {name: list(source.weights) for name, source in config.data.mixture.items()}
    ends = (0.0, *IDENTITY_PHASES)
    spans = [end - begin for begin, end in itertools.pairwise(ends)]
    kinds = list(identity.SHARES)

    def weights(table: dict[str, list[float]]) -> dict[str, Any]:
        return {f"data.mixture.{name}.weights": tuple(row) for name, row in table.items()}

    even = {
        n: [sum(w * s for w, s in zip(row, spans, strict=True))] * 4 for n, row in mixture.items()
    }
    # The phases keep their lengths and shares of text, and change their kind of question.
    back = {"text": mixture["text"]}
    for kind, other in zip(kinds, reversed(kinds), strict=True):
        share, phase = max(mixture[other]), mixture[other].index(max(mixture[other]))
        back[kind] = [share if p == phase else 0.0 for p in range(4)]
    none = {name: [float(name == "text")] * 4 for name in mixture}
    return {
        "config": config,
        "entries": {
            "curriculum": entry("variant", "each kind in its phase"),
            "mixed": entry("variant", "the same amounts throughout", **weights(even)),
            "reverse": entry("variant", "worldview first, mechanics last", **weights(back)),
            "text alone": entry("variant", "no questions", **weights(none)),
        },
        "questions": {
            "order": ("curriculum", "mixed", "Do phases help, at equal amounts of each kind?"),
            "reverse": ("curriculum", "reverse", "Is this order better than the reverse?"),
            "teaching": ("mixed", "text alone", "Do questions in training help to predict them?"),
        },
    }


def _importance(factor: float) -> dict[str, Any]:
    del factor
    entries = {"plain": entry("variant", "every token counts alike")}
    for exponent in (0.5, 1.0, 2.0):
        says = f"a token counts (1 - p)^{exponent:g}"
        entries[f"importance {exponent:g}"] = entry("variant", says, importance=exponent)
    measure = {"name": "accuracy", "unit": "% of tokens wrong", "best": 1.0, "scale": 100.0}
    return {"entries": entries, "measure": measure}


def _rates(factor: float) -> dict[str, Any]:
    del factor
    three = ((0.1, 0.999), (0.3, 0.99), (0.6, 0.9))
    return {
        "entries": {
            "spread": entry("variant", "the usual spread of decays"),
            "two rates": entry("variant", "a tenth at 0.999, the rest at 0.9", init="groups"),
            "three rates": entry(
                "variant", "session and long term", init="groups", decay_groups=three
            ),
        }
    }


PRESETS: dict[str, Callable[[float], dict[str, Any]]] = {
    "scaling": _scaling,
    "decay": _decay,
    "curriculum": _curriculum,
    "importance": _importance,
    "rates": _rates,
}


def get_sweep(preset: str = "scaling") -> dict[str, Any]:
    """Return the sweep of a question."""
    name, smoke = preset.removesuffix("-smoke"), preset.endswith("-smoke")
    spec = {"config": cpu.get_config()} | choose_preset(PRESETS, name)(SMOKE if smoke else 1.0)
    steps, config = 2 if smoke else 300, spec["config"]
    config.update({"eval_every": steps // 2 if smoke else 30, "checkpoint_every": steps})
    config.update({"batch_size": TOKENS // config.seq_len, "keep_best": 0, "keep_last": 1})
    config.optimizer.update({"warmup_steps": steps // 10, "warmup_factor": 0.0})
    if smoke:
        config.update({"batch_size": 8, "seq_len": 8})
        config.model_config.update(TINY)
        config.data.eval_tokens = 256
    compute = name in ("scaling", "decay", "rates")
    return spec | {"steps": steps, "seeds": (0,) if smoke else (0, 1, 2), "compute": compute}
