"""Ablations of GroundThink that its authors planned (docs/systems.md, G-90 to G-96b).

    python -m eval.sweep --config=configs/groundthink/matrix.py --workdir=runs/matrix --jobs 2
                         --data input.txt [--preset rates|cpu|claim|full|smoke]

"cpu" is 12 layers x 64, 300 steps, for two cores, each entry at its own learning rate: the best of
"rates", which trains every entry at four with one seed. "full" is 12 x 256, 10,000 steps with the
authors' batch size, length and rate; "claim" is the 1,000 steps of their one recorded result;
"smoke" runs everything in minutes. All entries read the same tokens and have the baseline's number
of parameters: where a layer is smaller, there are more, and channel mixing, whose expansion stays
between 2.9 and 4, makes up the rest. Results: docs/results/groundthink.md.

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
TINY_MODEL = {"attn_window": 16, "norm_every": 16}
# preset -> (steps, seeds, fields of the config, fields of the model)
SIZES = {
    "cpu": (300, (0, 1, 2), {"eval_every": 60, "checkpoint_every": 300}, {}),
    "rates": (300, (0,), {"eval_every": 60, "checkpoint_every": 300}, {}),
    "smoke": (12, (0, 1), TINY | {"eval_every": 4, "checkpoint_every": 6}, TINY_MODEL),
    "full": (10_000, (0, 1, 2), BATCH | {"eval_every": 500, "checkpoint_every": 1000}, SOURCE),
    "claim": (1000, (0,), BATCH | {"eval_every": 200, "checkpoint_every": 100}, SOURCE),
}
ISO = "channel_expansion"  # solved for, to match the parameters of the baseline
ONE_KIND = {"attention_layers": ()}
RWKV = {"layout": "rwkv", "num_layers": 15}
MAMBA = {"layout": "mamba", "num_layers": 21}
ATTENTION = {"model": "transformer", "num_layers": 6}

ENTRIES = {
    "hybrid": entry("tier1", "RWKV-6 and Mamba-2 in parallel, 12 layers, attention at layer 6"),
    "no attention": entry("tier1", "layer 6 is as the others", ISO, attention_layers=()),
    "6 layers": entry("tier1", "half as deep, wider by half", ISO, num_layers=6),
    "8 layers": entry("tier2", "a quarter wider", ISO, num_layers=8),
    "gamma 0.1": entry("tier2", "residual scales start at 0.1", gamma=0.1),
    "gamma 1": entry("tier2", "plain residuals at the start", gamma=1.0),
    "1 group": entry("tier2", "states are normalized in one group", state_groups=1),
    "state 32": entry("tier2", "Mamba's state is twice as large", state_dim=32),
    "interleaved": entry("tier2", "R M R M, 18 layers", ISO, layout="interleaved", num_layers=18),
    "sequential": entry("tier2", "nine R, then nine M", ISO, layout="sequential", num_layers=18),
    "3 to 1": entry("tier2", "R R R M, 17 layers", ISO, layout="3:1", num_layers=17),
    "1 to 3": entry("tier2", "R M M M, 19 layers", ISO, layout="1:3", num_layers=19),
    "pure RWKV": entry("tier3", "RWKV-6 alone, 15 layers", ISO, **ONE_KIND, **RWKV),
    "pure Mamba": entry("tier3", "Mamba-2 alone, 21 layers", ISO, **ONE_KIND, **MAMBA),
    "transformer": entry(
        "tier3", "the library's, 6 layers, twice as wide", "mlp_size", **ATTENTION
    ),
    "v0.2.0": entry("tier3", "as written, twice as wide", ISO, model="groundthink/v020"),
    "V3 as written": entry("tier3", "as written", ISO, model="groundthink/v3_as_written"),
    "identity init": entry("assumption", "both paths retain 0.9999", init="identity"),
    "no handoff": entry("assumption", "every segment starts empty", **{"data.carry_state": False}),
    "learned alpha": entry("assumption", "the share of RWKV is learned", learn_alpha=True),
    "write gate": entry("assumption", "tokens decide how far they write", write_gate=True),
    "two rates": entry("assumption", "a tenth of the channels at 0.999, 0.9", init="groups"),
    "no path norm": entry("assumption", "raw outputs are mixed", path_norm=False),
}
# Width as a multiple of the baseline's; what of these also has heads of as much more.
WIDER = {
    "6 layers": 3 / 2,
    "8 layers": 5 / 4,
    "transformer": 2,
    "v0.2.0": 2,
    "V3 as written": 11 / 8,
}
WIDER_HEADS = ("transformer", "v0.2.0", "V3 as written")
WINDOW = 4  # of the transformer, over the window of the hybrid's one layer of attention
RATES = (2e-3, 4e-3, 8e-3, 1.6e-2)
BEST: dict[str, float] = {}  # of RATES, where it is not the base config's

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
    entries = _entries(config)
    if preset == "rates":
        entries = {
            f"{name}, {rate:g}": _at_rate(listed, rate)
            for name, listed in entries.items()
            for rate in RATES
        }
    elif preset == "cpu":
        entries |= {name: _at_rate(entries[name], rate) for name, rate in BEST.items()}
    return {
        "config": config,
        "steps": steps,
        "seeds": seeds,
        "entries": entries,
        "questions": {} if preset == "rates" else QUESTIONS,
        "diagnosis": () if preset == "rates" else ("hybrid", "pure RWKV", "pure Mamba"),
    }


def _entries(config: ConfigDict) -> dict[str, Any]:
    base = config.model_config
    more = {name: {"width": int(base.width * factor)} for name, factor in WIDER.items()}
    for name in WIDER_HEADS:
        more[name]["head_size"] = int(base.head_size * WIDER[name])
    for name in ("v0.2.0", "V3 as written"):
        more[name] |= {"attn_window": base.attn_window, "norm_every": base.norm_every}
    more["transformer"]["window"] = WINDOW * base.attn_window
    entries = {
        name: listed | {"changes": listed["changes"] | more.get(name, {})}
        for name, listed in ENTRIES.items()
    }
    entries["transformer"]["multiple"] = 8
    return entries


def _at_rate(listed: dict[str, Any], rate: float) -> dict[str, Any]:
    return listed | {"changes": listed["changes"] | {"optimizer.learning_rate": rate}}
