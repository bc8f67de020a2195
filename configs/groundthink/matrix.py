"""Ablations of GroundThink that its authors planned (docs/systems.md, G-90 to G-96b).

    python -m eval.sweep --config=configs/groundthink/matrix.py --workdir=runs/matrix --jobs 2
                         --data input.txt [--preset cpu|claim|full|smoke]

"cpu" is 12 layers x 64, 300 steps, for two cores; "full" is 12 x 256, 10,000 steps with the
authors' batch size and length; "claim" is the 1,000 steps of their one recorded result; "smoke"
runs everything in minutes. All entries read the same tokens; those that would differ much in size
are matched to the baseline's number of parameters. Results: docs/results/groundthink.md.

    python -m eval.sweep --config=configs/groundthink/matrix.py --workdir=runs/claim --preset claim
                         --only hybrid transformer "pure RWKV" "pure Mamba" --data input.txt

Tier 1's run on "the data of v0.2.0" is left out: that text is not available.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.common import choose_preset, entry
from configs.groundthink.cpu import get_config

SOURCE = {"width": 256, "head_size": 32, "attn_window": 256, "norm_every": 256}
BATCH = {"batch_size": 8, "seq_len": 256}
TINY = {"batch_size": 4, "seq_len": 16, "log_every": 2}
TINY_MODEL = {"width": 32, "head_size": 8, "attn_window": 16, "norm_every": 16}
# preset -> (steps, seeds, fields of the config, fields of the model)
SIZES = {
    "cpu": (300, (0, 1, 2), {"eval_every": 30, "checkpoint_every": 100}, {}),
    "smoke": (12, (0, 1), TINY | {"eval_every": 4, "checkpoint_every": 6}, TINY_MODEL),
    "full": (10_000, (0, 1, 2), BATCH | {"eval_every": 500, "checkpoint_every": 1000}, SOURCE),
    "claim": (1000, (0,), BATCH | {"eval_every": 200, "checkpoint_every": 100}, SOURCE),
}
ISO = "channel_expansion"  # solved for, to match the parameters of the baseline

ENTRIES = {
    "hybrid": entry("tier1", "RWKV-6 and Mamba-2 in parallel, 12 layers, attention at layer 6"),
    "no attention": entry("tier1", "layer 6 is as the others", ISO, attention_layers=()),
    "6 layers": entry("tier1", "half as deep, wider by half", ISO, num_layers=6),
    "8 layers": entry("tier2", "a quarter wider", ISO, num_layers=8),
    "gamma 0.1": entry("tier2", "residual scales start at 0.1", gamma=0.1),
    "gamma 1": entry("tier2", "plain residuals at the start", gamma=1.0),
    "1 group": entry("tier2", "states are normalized in one group", state_groups=1),
    "state 32": entry("tier2", "Mamba's state is twice as large", state_dim=32),
    "interleaved": entry("tier2", "R M R M", ISO, layout="interleaved"),
    "sequential": entry("tier2", "six R, then six M", ISO, layout="sequential"),
    "3 to 1": entry("tier2", "R R R M", ISO, layout="3:1"),
    "1 to 3": entry("tier2", "R M M M", ISO, layout="1:3"),
    "pure RWKV": entry("tier3", "RWKV-6 alone", ISO, layout="rwkv", attention_layers=()),
    "pure Mamba": entry("tier3", "Mamba-2 alone", ISO, layout="mamba", attention_layers=()),
    "transformer": entry("tier3", "attention in every layer", ISO, layout="attention"),
    "v0.2.0": entry("tier3", "as written", ISO, model="groundthink/v020"),
    "V3 as written": entry("tier3", "as written", ISO, model="groundthink/v3_as_written"),
    "identity init": entry("assumption", "both paths retain 0.9999", init="identity"),
    "no handoff": entry("assumption", "every segment starts empty", **{"data.carry_state": False}),
    "learned alpha": entry("assumption", "the share of RWKV is learned", learn_alpha=True),
    "write gate": entry("assumption", "tokens decide how far they write", write_gate=True),
    "two rates": entry("assumption", "a tenth of the channels at 0.999, 0.9", init="groups"),
    "no path norm": entry("assumption", "raw outputs are mixed", path_norm=False),
}
# Width as a multiple of the baseline's; entries that take all sizes of the baseline.
WIDER = {"6 layers": 3 / 2, "8 layers": 5 / 4}
OF_ONE_SIZE = ("v0.2.0", "V3 as written")
# The learning rate was tuned for the hybrid; these runs check whether that favours it.
AT_OTHER_RATES = ("hybrid", "pure RWKV", "pure Mamba", "transformer")
RATES = {"half": 0.5, "double": 2.0}

QUESTIONS = {
    "attention": ("hybrid", "no attention", "Does the attention anchor help?"),
    "depth": ("hybrid", "6 layers", "Are 12 layers better than 6, at equal parameters?"),
    "width": ("hybrid", "8 layers", "Are 12 layers better than 8 wider ones?"),
    "gamma": ("hybrid", "gamma 1", "Does gamma = 0.01 help against plain residuals?"),
    "gamma 0.1": ("hybrid", "gamma 0.1", "Is gamma = 0.01 better than 0.1?"),
    "groups": ("hybrid", "1 group", "Are 4 groups of StateNorm better than 1?"),
    "state": ("state 32", "hybrid", "Does a state of 32 help against 16?"),
    "identity": ("identity init", "hybrid", "Does the identity initialization help?"),
    "handoff": ("hybrid", "no handoff", "Does state handoff in training help?"),
    "alpha": ("learned alpha", "hybrid", "Does a learned alpha help?"),
    "importance": ("write gate", "hybrid", "Does an importance gate on writing help?"),
    "two rates": ("two rates", "hybrid", "Do two decay rates help against the usual spread?"),
    "path norm": ("hybrid", "no path norm", "Does the norm of each path help?"),
    "interleaved": ("hybrid", "interleaved", "Is parallel better than interleaved?"),
    "sequential": ("hybrid", "sequential", "Is parallel better than sequential?"),
    "3 to 1": ("hybrid", "3 to 1", "Is parallel better than RWKV to Mamba 3:1?"),
    "1 to 3": ("hybrid", "1 to 3", "Is parallel better than RWKV to Mamba 1:3?"),
    "RWKV": ("hybrid", "pure RWKV", "Is the hybrid better than pure RWKV?"),
    "Mamba": ("hybrid", "pure Mamba", "Is the hybrid better than pure Mamba?"),
    "transformer": ("hybrid", "transformer", "Is the hybrid better than a transformer?"),
    "v0.2.0": ("hybrid", "v0.2.0", "Is the hybrid better than v0.2.0?"),
    "V3": ("hybrid", "V3 as written", "Is the hybrid better than V3 as written?"),
}


def get_sweep(preset: str = "cpu") -> dict[str, Any]:
    """Return the base config, entries and questions at the sizes of a preset."""
    steps, seeds, fields, model = choose_preset(SIZES, preset)
    config = get_config()
    config.update(fields)
    config.model_config.update(model)
    config.optimizer.warmup_steps = min(steps // 10, 500)
    if preset in ("claim", "full"):
        config.optimizer.update({"learning_rate": 6e-4, "accumulate": 4})  # as in full.py
    if preset == "full":
        config.data.eval_tokens = 0
    return {
        "config": config,
        "steps": steps,
        "seeds": seeds,
        "entries": _entries(config),
        "questions": QUESTIONS,
        "diagnosis": ("hybrid", "pure RWKV", "pure Mamba"),
    }


def _entries(config: ConfigDict) -> dict[str, Any]:
    base = config.model_config
    sizes = {name: base[name] for name in ("width", "head_size", "attn_window", "norm_every")}
    more = {name: {"width": int(base.width * factor)} for name, factor in WIDER.items()}
    more |= dict.fromkeys(OF_ONE_SIZE, sizes)
    entries = {
        name: listed | {"changes": listed["changes"] | more.get(name, {})}
        for name, listed in ENTRIES.items()
    }
    for name in AT_OTHER_RATES:
        for words, factor in RATES.items():
            rate = {"optimizer.learning_rate": factor * config.optimizer.learning_rate}
            entries[f"{name}, {words} rate"] = entries[name] | {
                "group": "rates",
                "says": f"{words} the learning rate",
                "changes": entries[name]["changes"] | rate,
            }
    return entries
