"""Which part of a model learns, and which part it lives on (SYSTEMS G-49c, G-60, G-87, 2.32).

A component is what `model.parameter_label(name)` puts before the slash: rwkv, mamba, attention,
channel, ... A model without that method is divided by the first word of its parameters' names.
"""

import dataclasses
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

# What makes Mamba's step size, by the names in cells/mamba1.py and mamba2.py.
STEP_SIZE = ("dt_bias", "dt_proj")
# What scales all that a component gives, the outermost first.
READ_OUTS = (
    ("rwkv/norm/scale", "mamba/norm/scale"),
    ("up/kernel",),
    ("output/kernel", "out_proj/kernel", "channel/value/kernel", "adapter/up"),
)


@dataclasses.dataclass(frozen=True)
class Norms:
    """Gradients of a component.

    Attributes:
        raw: Euclidean norm over all its parameters.
        rms: raw / sqrt(count): comparable between components of different sizes.
        count: number of parameters.
    """

    raw: float
    rms: float
    count: int


def labeller(model) -> Callable[[str], str]:
    """Name of a parameter -> "component/role", role "other" if the model does not say."""
    return traits_of(model).parameter_label or (lambda name: name.split("/")[0] + "/other")


def component_norms(grads: Mapping[str, jax.Array], label: Callable[[str], str]) -> dict:
    """{component: Norms} of gradients by name, e.g. of `train.optim.build.flatten`."""
    squares, counts = {}, {}
    for name, grad in grads.items():
        component = label(name).split("/")[0]
        square = float(np.square(np.asarray(grad, np.float64)).sum())
        squares[component] = squares.get(component, 0.0) + square
        counts[component] = counts.get(component, 0) + grad.size
    return {
        name: Norms(math.sqrt(square), math.sqrt(square / counts[name]), counts[name])
        for name, square in squares.items()
    }


def ratios(norms: Mapping[str, Norms], over: str = "rwkv", under: str = "mamba") -> dict | None:
    """{"raw", "rms"}: gradients of one component over another's; None if either is not there.

    0 / 0 is NaN, which fails every gate: neither learns.
    """
    if over not in norms or under not in norms:
        return None
    found = {}
    for field in ("raw", "rms"):
        above, below = getattr(norms[over], field), getattr(norms[under], field)
        found[field] = above / below if below else math.inf if above else math.nan
    return found


def phase_shift(grads: Mapping[str, jax.Array]) -> Verdict:
    """2.32: step sizes' mean gradient norm over the others' mean; above 5 flags a phase shift."""
    mine, others = [], []
    for name, grad in grads.items():
        norm = float(np.linalg.norm(np.asarray(grad, np.float64)))
        (mine if any(part in STEP_SIZE for part in name.split("/")) else others).append(norm)
    if not mine or not others:
        return Verdict("phase shift", "skip", None, "the model has no step sizes")
    mean, rest = sum(mine) / len(mine), sum(others) / len(others)
    ratio = mean / rest if rest else math.inf if mean else 0.0
    says = f"mean gradient norm of step sizes over that of the others: {ratio:.2f} (flag above 5)"
    return Verdict("phase shift", "warn" if ratio > 5.0 else "pass", ratio, says)


def mean_loss(model, batch):
    """Next-token loss, nats a token, from a fresh state. batch: as the data streams give it."""
    state = model.initial_state(batch["inputs"].shape[0])
    _, sums = model.loss_sums(state, batch, key=None)
    return sums["next_token"] / jnp.maximum(batch["weights"].sum(), 1.0)


_gradients = jax.jit(jax.grad(mean_loss))


def gradients(model, batch) -> dict[str, jax.Array]:
    """Gradients of `mean_loss` by name."""
    return flatten(_gradients(model, batch))


def without(model, component: str):
    """The model with a component that gives nothing to the residual stream, or None if it has none.

    component: "rwkv" or "mamba" (a path of the hybrid), "attention" or "gla" (a mixer), "channel".
    What is zeroed is the last thing that scales the component's output: the gain of its norm, or
    the kernel that reads it out; everything else, the state included, goes on as before.
    """
    flat = flatten(model)
    label = labeller(model)
    zeroed = _read_outs([name for name in flat if label(name).split("/")[0] == component])
    if not zeroed:
        return None
    return unflatten(model, {n: x * 0.0 if n in zeroed else x for n, x in flat.items()})


def _read_outs(names: list[str]) -> set[str]:
    """The parameters that scale what the layers of a component give."""
    owners: dict[str, list[str]] = {}
    for name in names:
        layer = re.split("/(mixer|channel|adapter)/", name)[0]
        owners.setdefault(layer, []).append(name)
    found = set()
    for inside in owners.values():
        for ends in READ_OUTS:
            hits = {name for name in inside if name.endswith(ends)}
            if hits:
                found |= hits
                break
    return found


@dataclasses.dataclass(frozen=True)
class Dominance:
    """What each component is worth: the rise of the loss without it (G-49c).

    Attributes:
        loss: of the whole model, nats a token.
        rises: component -> loss without it - loss.
        shares: of the paths rwkv and mamba: rise over the sum of both (rises below 0 count as 0).
        says: which dominates.
    """

    loss: float
    rises: Mapping[str, float]
    shares: Mapping[str, float]
    says: str


def dominance(model, tokens) -> Dominance:
    """Zeroes each component in turn, without training on, and measures what it costs.

    tokens: int (B, T + 1), texts that are read from a fresh state.
    """

    def measure(model):
        state = model.initial_state(len(tokens))
        return float(token_losses(model, state, tokens)[1].mean())

    loss, rises = measure(model), {}
    for component in ("rwkv", "mamba", "attention", "gla", "channel"):
        maimed = without(model, component)
        if maimed is not None:
            rises[component] = measure(maimed) - loss
    return Dominance(loss, rises, *_shares(rises))


def _shares(rises: Mapping[str, float]) -> tuple[dict[str, float], str]:
    paths = {name: max(rises[name], 0.0) for name in ("rwkv", "mamba") if name in rises}
    total = sum(paths.values())
    if len(paths) < 2:
        return {}, "no two paths to compare"
    if not total > 0:
        return {}, "the loss does not rise without either path"
    shares = {name: rise / total for name, rise in paths.items()}
    first = max(shares, key=shares.get)
    says = f"{first} carries {shares[first]:.0%} of what the two paths are worth"
    return shares, says + (" and dominates" if shares[first] > 0.75 else "")
