"""Weight decay of every parameter of every cell and model, by name (G-21).

Each table names the parameters that decay in all columns, and those that do in the columns counted
from the right or left as given; all others, which a second list names, do not decay. A parameter
that is in neither list fails.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.cells import CELLS
from jaxmodels.tree import flatten, unflatten
from tests.train.toy import toy_config
from train.optim.build import make_optimizer
from train.optim.weight_decay import decay_factors

WIDTH = 32
GRU = slice(64, None)  # of r, z and n only n is no gate
LINEAR_RWKV = "key/kernel value/kernel output/kernel"
# Norms, biases, token shifts, low-rank maps to decays and gates.
RWKV6_FREE = (
    "bonus decay decay_down decay_up gate/kernel mix mix_down mix_up mix_x norm_bias norm_scale"
)
RWKV7_FREE = (
    "bonus decay/bias decay/down decay/up gate/down gate/up key_scale mix norm_bias norm_scale "
    "rate/bias rate/down rate/up removal_scale"
)
MAMBA1_FREE = "A_log D conv_bias conv_taps dt_proj/bias dt_proj/kernel"
MAMBA2_FREE = "A_log D conv_bias conv_taps dt_bias norm_scale"
MAMBA1_PARTS = {"in_proj/kernel": slice(0, 64), "x_proj/kernel": slice(2, None)}  # x; B, C
MAMBA2_PARTS = {"in_proj/kernel": slice(64, -2)}  # x, B, C; not z, Delta
UNIFIED_WHOLE = (
    "bind/bind/kernel bind/mask/kernel reduce/layers/0/upper/kernel reduce/layers/1/upper/kernel "
    "reduce/topdown/0/kernel reduce/topdown/1/kernel"
)
UNIFIED_PARTS = {
    "rwkv/project/kernel": slice(64, None),  # the candidate
    "reduce/layers/0/update/kernel": slice(64, None),
    "reduce/layers/1/update/kernel": slice(32, None),
    "reduce/layers/2/update/kernel": slice(16, None),
}
UNIFIED_FREE = (
    r"bind/(bind|mask)/bias bind/(mask|relation)_logit bind/(mask|relation)_norm/(bias|scale) "
    r"reduce/layers/\d/(norm_in|norm_out|update|upper)/(bias|scale) reduce/norm_h/(bias|scale) "
    r"rwkv/(decay_logit|mix_logit) rwkv/norm/(bias|scale) rwkv/project/bias"
)


def under(prefix, names):
    """Put a prefix before each name of a list or table."""
    if isinstance(names, dict):
        return {f"{prefix}{name}": columns for name, columns in names.items()}
    return " ".join(f"{prefix}{name}" for name in names.split())


DELTA_FREE = "A_log decay/kernel dt_bias gate/kernel norm_scale rate/kernel taps"

# Cell, with fields: (decays wholly, decays in these columns, does not decay).
CELL_TABLE = {
    ("attention",): ("query/kernel key/kernel value/kernel output/kernel", {}, ""),
    ("gated_delta",): (
        "inputs/kernel output/kernel",
        {},
        DELTA_FREE,
    ),
    ("grounded_gla",): (
        f"receptance/kernel {LINEAR_RWKV}",
        {},
        "base_decay conv_taps decay gate grounding_scale h0 state_gain",
    ),
    ("gru",): ("", {"kernel": GRU, "inputs/kernel": GRU}, "bias inputs/bias"),
    ("rwkv4",): (LINEAR_RWKV, {}, "bonus decay mix receptance/kernel"),
    ("rwkv6",): (f"receptance/kernel {LINEAR_RWKV}", {}, RWKV6_FREE),
    ("rwkv7",): (f"receptance/kernel {LINEAR_RWKV}", {}, RWKV7_FREE),
    ("rwkv7", "value_residual", True): (
        f"receptance/kernel {LINEAR_RWKV}",
        {},
        f"{RWKV7_FREE} residual/bias residual/down residual/up",
    ),
    ("mamba1",): ("out_proj/kernel", MAMBA1_PARTS, MAMBA1_FREE),
    ("mamba2", "head_size", 32): ("out_proj/kernel", MAMBA2_PARTS, MAMBA2_FREE),
    ("unified",): (UNIFIED_WHOLE, UNIFIED_PARTS, UNIFIED_FREE),
    ("unified", "core", "rwkv4"): (
        UNIFIED_WHOLE,
        UNIFIED_PARTS | {"rwkv/project/kernel": slice(0, 64)},  # key and value; not receptance
        f"{UNIFIED_FREE} rwkv/time_decay rwkv/time_first",
    ),
    ("hybrid", "write_gate", True, "learn_alpha", True): (
        under("rwkv/cell/", f"receptance/kernel {LINEAR_RWKV}") + " mamba/cell/out_proj/kernel",
        under("mamba/cell/", MAMBA2_PARTS),
        f"{under('rwkv/cell/', RWKV6_FREE)} {under('mamba/cell/', MAMBA2_FREE)} alpha "
        "rwkv/norm/scale mamba/norm/scale write_weight write_bias",
    ),
    (
        "hybrid",
        *("rwkv_version", 7, "mamba_version", 1, "rwkv_width", 16, "head_size", 16),
        *("state_norm", "boundary"),
    ): (
        under("rwkv/cell/", f"receptance/kernel {LINEAR_RWKV}")
        + " rwkv/up/kernel rwkv/down/kernel mamba/cell/out_proj/kernel",
        under("mamba/cell/", MAMBA1_PARTS),
        f"{under('rwkv/cell/', RWKV7_FREE)} {under('mamba/cell/', MAMBA1_FREE)} "
        "rwkv/norm/scale mamba/norm/scale rwkv/gain mamba/gain",
    ),
}

STACK_FREE = "embed/table norm/scale layers/norm_(cell|mlp)/scale"
STACK_WHOLE = "head/kernel layers/mlp/up/kernel layers/mlp/down/kernel"
CORE = r"core/(high|low)/blocks/"
HRM_WHOLE = (
    " ".join(f"{CORE}{name}/kernel" for name in ("qkv", "output", "up", "down"))
    + " head/kernel q_head/kernel"
)
PRERNK_PARTS = {
    "cell/rwkv/project/kernel": slice(512, None),
    "cell/reduce/layers/0/update/kernel": slice(512, None),
    "cell/reduce/layers/1/update/kernel": slice(256, None),
    "cell/reduce/layers/2/update/kernel": slice(128, None),
}
PRERNK_FREE = f"{under('cell/', UNIFIED_FREE)} embed/table head/bias"
CHANNEL = "layers/channel/"
GROUND = r"layers/\d/\d/"
GROUND_WHOLE = f"{GROUND}channel/key/kernel {GROUND}channel/value/kernel"
GROUND_FREE = (
    f"embed/table norm/scale {GROUND}channel/receptance/kernel {GROUND}gamma_(channel|mixer) "
    f"{GROUND}norm_(channel|mixer)(_out)?/scale"
)
RWKV_NORMS = "embed/table norm/(bias|scale) norm_embed/(bias|scale) "
RWKV_NORMS += "layers/norm_(channel|time)/(bias|scale)"
CHANNEL_GATED = f"{CHANNEL}receptance/kernel {CHANNEL}receptance_mix {CHANNEL}key_mix"
TIME = "layers/time/"
RWKV_WHOLE = f"head/kernel {CHANNEL}key/kernel {CHANNEL}value/kernel {under(TIME, LINEAR_RWKV)}"
RNK_WHOLE = (
    r"answerable/kernel decoder/(enter|hidden|output|plan)/kernel intent/kernel stop/kernel "
    r"layers/mixer/out_proj/kernel planner/net/mlps/\d/(up|down)/kernel planner/output/kernel "
    r"refiner/attention/(key|query|value|output)/kernel refiner/mlp/(up|down)/kernel"
)
RNK_FREE = (
    r"answerable/bias decoder/embed/table decoder/(enter|hidden|output|plan)/bias "
    r"decoder/layers/\d/bias decoder/layers/\d/inputs/bias decoder/norm/(bias|scale) embed/table "
    r"intent/bias intents/table layers/norm/scale planner/net/(mlps|norms)/\d/.*(bias|scale) "
    r"planner/norm/(bias|scale) planner/output/bias refiner/attention/.*bias refiner/constraints "
    r"refiner/gate/(kernel|bias) refiner/mlp/(up|down)/bias refiner/norm(_out)?/(bias|scale) start "
    rf"stop/bias {under('layers/mixer/', MAMBA1_FREE)}"
)
MODEL_TABLE = {
    ("prernk",): (f"head/kernel {under('cell/', UNIFIED_WHOLE)}", PRERNK_PARTS, PRERNK_FREE),
    (
        "prernk",
        *("abstraction_heads", (1,), "abstraction_vocab", 4, "objective", "regression"),
        *("symbolic", "cross_entropy", "fidelity", "probe", "relation_vocab", 8),
    ): (
        rf"(head|heads/0|values|symbols|decoders/\d)/kernel {under('cell/', UNIFIED_WHOLE)}",
        PRERNK_PARTS,
        rf"{PRERNK_FREE} (heads/0|values|symbols|decoders/\d)/bias",
    ),
    ("groundthink",): (
        f"{GROUND_WHOLE} {GROUND}mixer/(query|key|value|output)/kernel "
        + under(f"{GROUND}mixer/rwkv/cell/", f"receptance/kernel {LINEAR_RWKV}")
        + f" {GROUND}mixer/mamba/cell/out_proj/kernel",
        {f"{GROUND}mixer/mamba/cell/in_proj/kernel": slice(512, -16)},
        f"{GROUND_FREE} {under(f'{GROUND}mixer/rwkv/cell/', RWKV6_FREE)} "
        f"{under(f'{GROUND}mixer/mamba/cell/', MAMBA2_FREE)} {GROUND}mixer/(rwkv|mamba)/norm/scale",
    ),
    ("groundthink/v3_as_written",): (
        f"{GROUND_WHOLE} {GROUND}mixer/receptance/kernel {under(f'{GROUND}mixer/', LINEAR_RWKV)} "
        f"{GROUND}mixer/query/kernel",
        {},
        rf"{GROUND_FREE} layers/\d/\d/idle_h0 "
        + under(
            f"{GROUND}mixer/", "base_decay conv_taps decay gate grounding_scale h0 state_gain"
        ),
    ),
    ("rwkv",): (
        f"{RWKV_WHOLE} {TIME}receptance/kernel",
        {},
        f"{RWKV_NORMS} {CHANNEL}key_mix {under(TIME, RWKV7_FREE)} {TIME}residual/(bias|down|up)",
    ),
    ("rwkv", "version", 6): (
        f"{RWKV_WHOLE} {TIME}receptance/kernel",
        {},
        f"{RWKV_NORMS} {CHANNEL_GATED} {under(TIME, RWKV6_FREE)}",
    ),
    ("rwkv", "version", 4): (
        RWKV_WHOLE,
        {},
        f"{RWKV_NORMS} {CHANNEL_GATED} {under(TIME, 'bonus decay mix receptance/kernel')}",
    ),
    ("mamba",): (
        "layers/mixer/out_proj/kernel",
        {"layers/mixer/in_proj/kernel": slice(512, -8)},
        f"embed/table norm/scale layers/norm/scale {under('layers/mixer/', MAMBA2_FREE)}",
    ),
    ("mamba", "version", 1): (
        "layers/mixer/out_proj/kernel",
        {
            "layers/mixer/in_proj/kernel": slice(0, 512),
            "layers/mixer/x_proj/kernel": slice(16, None),
        },
        f"embed/table norm/scale layers/norm/scale {under('layers/mixer/', MAMBA1_FREE)}",
    ),
    ("transformer",): (
        f"{STACK_WHOLE} {under('layers/cell/', 'query/kernel ' + LINEAR_RWKV)}", {}, STACK_FREE
    ),
    ("stack",): (
        f"{STACK_WHOLE} layers/cell/inputs/kernel layers/cell/output/kernel",
        {},
        f"{STACK_FREE} {under('layers/cell/', DELTA_FREE)}",
    ),
    ("hrlm",): (HRM_WHOLE, {}, "embed/table q_head/bias register"),
    ("hrlm/prefix_ar", "width", 64, "high_layers", 2, "low_layers", 2): (
        " ".join(f"{CORE}{name}/kernel" for name in ("output", "up", "down")) + " head/kernel",
        {f"{CORE}qkv/kernel": slice(64, None)},  # gate, q, k, v
        "embed/table",
    ),
    ("hrm",): (HRM_WHOLE, {}, "embed/table q_head/bias puzzle"),
    ("rnk",): (
        RNK_WHOLE,
        {
            "layers/mixer/in_proj/kernel": slice(0, 512),
            "layers/mixer/x_proj/kernel": slice(16, None),
            r"decoder/layers/\d/kernel": slice(512, None),
            r"decoder/layers/\d/inputs/kernel": slice(512, None),
        },
        RNK_FREE,
    ),
}  # fmt: skip


def check(model, whole, parts, free):
    """Compare the factors of all parameters with a row of a table, regular expressions."""
    factors = decay_factors(model)
    used = set()
    for name, leaf in flatten(model).items():
        found = [p for p in (*whole.split(), *parts, *free.split()) if re.fullmatch(p, name)]
        assert len(found) == 1, f"{name}: in {len(found)} of the lists, {found}"
        used.update(found)
        columns = parts.get(found[0], slice(None) if found[0] in whole.split() else slice(0))
        want = np.zeros(leaf.shape[-1:] if leaf.shape else (1,), np.float32)
        want[columns] = 1.0
        got = np.broadcast_to(np.ravel(factors[name]), want.shape)
        np.testing.assert_array_equal(got, want, err_msg=name)
    unused = {*whole.split(), *parts} - used
    assert not unused, unused


def fields(row):
    return dict(zip(row[1::2], row[2::2], strict=True))


@pytest.mark.parametrize("row", CELL_TABLE, ids=lambda row: "-".join(map(str, row)))
def test_cells(row):
    config_class, cell_class = CELLS[row[0]]
    config = config_class(WIDTH, **fields(row))
    check(jax.eval_shape(lambda: cell_class(config, rngs=nnx.Rngs(0))), *CELL_TABLE[row])


@pytest.mark.parametrize("row", MODEL_TABLE, ids=lambda row: "-".join(map(str, row)))
def test_models(row):
    check(jax.eval_shape(lambda: jaxmodels.create(row[0], **fields(row))), *MODEL_TABLE[row])


def test_every_cell_and_model_is_in_the_tables():
    assert {row[0] for row in CELL_TABLE} == set(CELLS)
    without_optimizer = {"hft"}
    assert {row[0].split("/")[0] for row in MODEL_TABLE} == set(
        jaxmodels.MODELS
    ) - without_optimizer
    model = jax.eval_shape(lambda: jaxmodels.create("hft"))
    assert hasattr(model, "local_update")


@pytest.mark.parametrize("name", ("adamw", "adam_atan2", "lion", "muon"))
def test_optimizers_decay_by_column(name):
    """Without a gradient, what moves has decayed; also where a part is frozen."""
    config = toy_config(
        optimizer__schedule="constant", optimizer__warmup_steps=0, optimizer__weight_decay=0.5
    )
    config.optimizer.name = name
    rate = 0.5 * config.optimizer.learning_rate
    params = {"in_proj/kernel": jnp.full((3, 4), 2.0), "gate": jnp.full((4,), 2.0)}
    params["frozen/kernel"] = params["in_proj/kernel"]
    factors = {"in_proj/kernel": np.float32([[1, 0, 0, 1]]), "gate": 0.0, "frozen/kernel": 1.0}
    labels = {leaf: f"{leaf.split('/')[0]}/x" for leaf in params}
    still = jax.tree.map(jnp.zeros_like, params)
    for frozen in (False, True):
        config.optimizer.freeze = type(config)({"frozen": -1} if frozen else {})
        optimizer = make_optimizer(config, factors, labels)
        updates, _ = optimizer.update(still, optimizer.init(params), params)
        for leaf, update in updates.items():
            factor = 0.0 if frozen and leaf == "frozen/kernel" else factors[leaf]
            want = np.broadcast_to(-rate * 2.0 * factor, update.shape)
            np.testing.assert_allclose(update, want, rtol=1e-6, err_msg=leaf)


def test_ranges_survive_a_change_of_arrays():
    """A module of new arrays, as a checkpoint restores it, has the ranges of the old one."""
    config_class, cell_class = CELLS["mamba2"]
    cell = cell_class(config_class(WIDTH), rngs=nnx.Rngs(0))
    changed = jax.jit(lambda cell: unflatten(cell, flatten(cell)))(cell)
    want, got = decay_factors(cell), decay_factors(changed)
    assert set(want) == set(got)
    np.testing.assert_array_equal(got["in_proj/kernel"], want["in_proj/kernel"])
