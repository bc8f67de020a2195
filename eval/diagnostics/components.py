"""Gradients and ablations of a model's components (docs/systems.md, G-49c, G-60, G-87).

The component of a parameter is the part of `model.parameter_label(name)` before the slash: rwkv,
mamba, attention, channel, ...; without that method, the first part of the parameter's name.
"""

import math
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from eval.diagnostics.gates import Verdict
from eval.diagnostics.reading import token_losses
from jaxmodels.models.contract import traits_of
from jaxmodels.tree import flatten, unflatten

# Parameters of Mamba's step size.
STEP_SIZE = ("dt_bias", "dt_proj")
# Parameters that scale the whole output of a component, outermost first.
READ_OUTS = (
    ("rwkv/norm/scale", "mamba/norm/scale"),
    ("up/kernel",),
    ("output/kernel", "out_proj/kernel", "channel/value/kernel", "adapter/up"),
)


def labeller(model) -> Callable[[str], str]:
    """Return a function from a parameter's name to "component/role"."""
    return traits_of(model).parameter_label or (lambda name: name.split("/")[0] + "/other")


def component_norms(
    grads: Mapping[str, jax.Array], label: Callable[[str], str]
) -> dict[str, dict[str, float]]:
    """Return component -> gradient norms, from gradients by name.

    "raw" is the Euclidean norm over all its parameters, "count" their number, and "rms"
    raw / sqrt(count), comparable between components of different sizes.
    """
    squares, counts = {}, {}
    for name, grad in grads.items():
        component = label(name).split("/")[0]
        square = float(np.square(np.asarray(grad, np.float64)).sum())
        squares[component] = squares.get(component, 0.0) + square
        counts[component] = counts.get(component, 0) + grad.size
    return {
        name: {"raw": math.sqrt(x), "rms": math.sqrt(x / counts[name]), "count": counts[name]}
        for name, x in squares.items()
    }


def ratios(norms: Mapping[str, Mapping[str, float]]) -> dict[str, float] | None:
    """Return the ratios "raw" and "rms" of RWKV over Mamba; None if either is missing.

    0 / 0 is NaN, which fails every gate.
    """
    if not {"rwkv", "mamba"} <= norms.keys():
        return None
    quotients = {}
    for field in ("raw", "rms"):
        above, below = norms["rwkv"][field], norms["mamba"][field]
        quotients[field] = above / below if below else math.inf if above else math.nan
    return quotients


def phase_shift(grads: Mapping[str, jax.Array]) -> Verdict:
    """Judge the mean gradient norm of the step sizes over that of other parameters; 5 warns."""
    steps, others = [], []
    for name, grad in grads.items():
        norm = float(np.linalg.norm(np.asarray(grad, np.float64)))
        (steps if any(part in STEP_SIZE for part in name.split("/")) else others).append(norm)
    if not steps or not others:
        return Verdict("phase shift", "skip", None, "the model has no step sizes")
    mean, rest = sum(steps) / len(steps), sum(others) / len(others)
    ratio = mean / rest if rest else math.inf if mean else 0.0
    says = f"mean gradient norm of step sizes over other parameters: {ratio:.2f} (limit 5)"
    return Verdict("phase shift", "warn" if ratio > 5.0 else "pass", ratio, says)


def mean_loss(model, batch):
    """Return the next-token loss of a data batch in nats per token, from the initial state."""
    state = model.initial_state(batch["inputs"].shape[0])
    _, sums = model.loss_sums(state, batch, key=None)
    return sums["next_token"] / jnp.maximum(batch["weights"].sum(), 1.0)


_gradients = jax.jit(jax.grad(mean_loss))


def gradients(model, batch) -> dict[str, jax.Array]:
    """Return the gradients of `mean_loss` by parameter name."""
    return flatten(_gradients(model, batch))


def without(model, component: str):
    """Return the model with a component's output zeroed; None if the model does not have it.

    component: "rwkv" or "mamba" (paths of the hybrid), "attention" or "gla" (mixers), "channel".
    Zeroes the last parameter that scales the output: the gain of its norm, or its output
    projection. States are updated as before.
    """
    flat = flatten(model)
    label = labeller(model)
    zeroed = _read_outs([name for name in flat if label(name).split("/")[0] == component])
    if not zeroed:
        return None
    return unflatten(model, {n: x * 0.0 if n in zeroed else x for n, x in flat.items()})


def _read_outs(names: list[str]) -> set[str]:
    """Return the parameters that scale the output of each layer of a component."""
    layers: dict[str, list[str]] = {}
    for name in names:
        layer = re.split("/(mixer|channel|adapter)/", name)[0]
        layers.setdefault(layer, []).append(name)
    outputs = set()
    for parameters in layers.values():
        matches = ({name for name in parameters if name.endswith(ends)} for ends in READ_OUTS)
        outputs |= next(filter(None, matches), set())
    return outputs


def dominance(model, tokens) -> dict:
    """Measure the loss with each component zeroed, without retraining (docs/systems.md, G-49c).

    tokens: int (B, T + 1), read from the initial state. Returns "loss" of the whole model, nats per
    token; "rises", component -> loss without it - loss; "shares", rise of the paths rwkv and mamba
    over the sum of both, clipped at 0; and "says", the finding as text.
    """

    def measure(model):
        state = model.initial_state(len(tokens))
        return float(token_losses(model, state, tokens)[1].mean())

    loss, rises = measure(model), {}
    for component in ("rwkv", "mamba", "attention", "gla", "channel"):
        ablated = without(model, component)
        if ablated is not None:
            rises[component] = measure(ablated) - loss
    shares, says = _shares(rises)
    return {"loss": loss, "rises": rises, "shares": shares, "says": says}


def _shares(rises: Mapping[str, float]) -> tuple[dict[str, float], str]:
    paths = {name: max(rises[name], 0.0) for name in ("rwkv", "mamba") if name in rises}
    total = sum(paths.values())
    if len(paths) < 2:
        return {}, "no two paths to compare"
    if not total > 0:
        return {}, "the loss does not rise without either path"
    shares = {name: rise / total for name, rise in paths.items()}
    first = max(shares, key=shares.get)
    says = f"{first} carries {shares[first]:.0%} of the loss increase of the two paths"
    return shares, says + (" and dominates" if shares[first] > 0.75 else "")
