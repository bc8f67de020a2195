"""The ablations of GroundThink that its authors planned and never ran (SYSTEMS G-90 to G-96b).

    python -m eval.matrix --config=configs/groundthink/matrix.py --workdir=runs/matrix --jobs 2
                          --data input.txt [--preset cpu|claim|full|smoke]

"cpu" is 12 layers x 64 in 300 steps, for two cores; "full" 12 x 256 in 10,000 steps of the source's
batch and length, "claim" the 1,000 steps of its one recorded result; "smoke" shows in minutes that
all of it runs. Every entry reads the same tokens; what changes the number of parameters by much is
matched to the baseline. Results: see docs/groundthink.md.

    python -m eval.matrix --config=configs/groundthink/matrix.py --workdir=runs/claim --preset claim
                          --only hybrid transformer "pure RWKV" "pure Mamba" --data input.txt

Tier 1's run on "the data of v0.2.0" is left out: that text is not to be had.
"""

from typing import Any

from configs.groundthink.cpu import get_config
from jaxmodels.errors import UserError

SOURCE = {"width": 256, "head_size": 32, "attn_window": 256, "norm_every": 256}
# preset -> (steps, seeds, fields of the config, fields of the model)
SIZES = {
    "cpu": (300, (0, 1, 2), {"eval_every": 30, "checkpoint_every": 100}, {}),
    "smoke": (
        12,
        (0, 1),
        {"batch_size": 4, "seq_len": 16, "eval_every": 4, "checkpoint_every": 6, "log_every": 2},
        {"width": 32, "head_size": 8, "attn_window": 16, "norm_every": 16},
    ),
    "full": (
        10_000,
        (0, 1, 2),
        {"batch_size": 8, "seq_len": 256, "eval_every": 500, "checkpoint_every": 1000},
        SOURCE,
    ),
    "claim": (
        1000,
        (0,),
        {"batch_size": 8, "seq_len": 256, "eval_every": 200, "checkpoint_every": 100},
        SOURCE,
    ),
}


def get_matrix(preset: str) -> dict[str, Any]:
    """The base, the entries, and what their differences are to answer."""
    if preset not in SIZES:
        raise UserError(f"--preset {preset}: there is {', '.join(SIZES)}")
    steps, seeds, fields, model = SIZES[preset]
    config = get_config()
    config.update(fields)
    config.model_config.update(model)
    width = config.model_config.width
    config.optimizer.warmup_steps = min(steps // 10, 500)
    if preset in ("claim", "full"):
        config.optimizer.update({"learning_rate": 6e-4, "accumulate": 4})  # as full.py
    if preset == "full":
        config.data.eval_tokens = 0

    iso = "channel_expansion"
    sizes = {name: config.model_config[name] for name in ("width", "head_size", "attn_window")}
    sizes["norm_every"] = config.model_config.norm_every

    def entry(group, says, match="", **changes):
        return {"group": group, "says": says, "match": match, "changes": changes}

    entries = {
        "hybrid": entry("tier1", "RWKV-6 and Mamba-2 in parallel, 12 layers, attention at layer 6"),
        "no attention": entry("tier1", "layer 6 is as the others", iso, attention_layers=()),
        "6 layers": entry(
            "tier1", "half as deep, wider by half", iso, num_layers=6, width=width * 3 // 2
        ),
        "8 layers": entry("tier2", "a quarter wider", iso, num_layers=8, width=width * 5 // 4),
        "gamma 0.1": entry("tier2", "residual scales start at 0.1", gamma=0.1),
        "gamma 1": entry("tier2", "plain residuals at the start", gamma=1.0),
        "1 group": entry("tier2", "states are normalised in one group", state_groups=1),
        "state 32": entry("tier2", "Mamba's state is twice as large", state_dim=32),
        "interleaved": entry("tier2", "R M R M", iso, layout="interleaved"),
        "sequential": entry("tier2", "six R, then six M", iso, layout="sequential"),
        "3 to 1": entry("tier2", "R R R M", iso, layout="3:1"),
        "1 to 3": entry("tier2", "R M M M", iso, layout="1:3"),
        "pure RWKV": entry("tier3", "RWKV-6 alone", iso, layout="rwkv", attention_layers=()),
        "pure Mamba": entry("tier3", "Mamba-2 alone", iso, layout="mamba", attention_layers=()),
        "transformer": entry("tier3", "attention in every layer", iso, layout="attention"),
        "v0.2.0": entry("tier3", "as written", iso, model="groundthink/v020", **sizes),
        "V3 as written": entry(
            "tier3", "as written", iso, model="groundthink/v3_as_written", **sizes
        ),
        "identity init": entry("assumption", "both paths retain 0.9999", init="identity"),
        "no handoff": entry(
            "assumption", "every segment starts empty", **{"data.carry_state": False}
        ),
        "learned alpha": entry("assumption", "the share of RWKV is learned", learn_alpha=True),
        "write gate": entry("assumption", "tokens decide how far they write", write_gate=True),
        "two rates": entry("assumption", "a tenth of the channels at 0.999, 0.9", init="groups"),
        "no path norm": entry("assumption", "raw outputs are mixed", path_norm=False),
    }
    # The rate was chosen for the hybrid; whether that favours it over its baselines.
    peak = config.optimizer.learning_rate
    for name in ("hybrid", "pure RWKV", "pure Mamba", "transformer"):
        whole = entries[name]
        for words, factor in (("half", 0.5), ("double", 2.0)):
            rate = {"optimizer.learning_rate": factor * peak}
            entries[f"{name}, {words} rate"] = whole | {
                "group": "rates",
                "says": f"{words} the learning rate",
                "changes": whole["changes"] | rate,
            }
    questions = {
        "attention": ("hybrid", "no attention", "Does the attention anchor help?"),
        "depth": ("hybrid", "6 layers", "Are 12 layers better than 6, at equal parameters?"),
        "width": ("hybrid", "8 layers", "Are 12 layers better than 8 wider ones?"),
        "gamma": ("hybrid", "gamma 1", "Does gamma = 0.01 help against plain residuals?"),
        "gamma 0.1": ("hybrid", "gamma 0.1", "Is gamma = 0.01 better than 0.1?"),
        "groups": ("hybrid", "1 group", "Are 4 groups of StateNorm better than 1?"),
        "state": ("state 32", "hybrid", "Does a state of 32 help against 16?"),
        "identity": ("identity init", "hybrid", "Does the identity initialisation help?"),
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
    return {
        "config": config,
        "steps": steps,
        "seeds": seeds,
        "entries": entries,
        "questions": questions,
        "diagnosis": ("hybrid", "pure RWKV", "pure Mamba"),
    }
