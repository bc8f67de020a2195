"""Reference implementation of the unified cell in float64 NumPy, token by token.

Independent of the JAX code except for the names of the parameters: p maps them to arrays.
State: a dict with h, time_state, relations, causal_mask, abstractions (list), and sums: numerator
and denominator of wkv, (B, 2, D).
"""

import math

import numpy as np


def run(c, p, state, xs, reset=None):
    """xs (B, T, width), reset bool (B, T) -> (state, ys (B, T, D), [values of a token])."""
    ys, inner = [], []
    for t in range(xs.shape[1]):
        if reset is not None:
            fresh = initial(c, xs.shape[0])
            state = _tree(lambda new, old, t=t: _select(reset[:, t], new, old), fresh, state)
        state, values = step(c, p, state, xs[:, t])
        ys.append(state["h"])
        inner.append(values)
    return state, np.stack(ys, 1), inner


def initial(c, batch):
    slots = c.symbol_slots
    return {
        "h": np.zeros((batch, c.hidden_size)),
        "time_state": np.zeros((batch, c.hidden_size)),
        "relations": np.zeros((batch, slots, c.role_slots, c.relation_size)),
        "causal_mask": np.tile(np.eye(slots), (batch, 1, 1)),
        "abstractions": [np.zeros((batch, size)) for size in c.abstraction_sizes],
        "sums": np.zeros((batch, 2, c.hidden_size)),
    }


def step(c, p, state, x):
    h_mid, time_state, sums = rwkv(c, p, x, state["h"], state["time_state"], state["sums"])
    relations, mask = bind(c, p, h_mid, state["relations"], state["causal_mask"])
    h, abstractions, context = reduce(c, p, h_mid, relations, mask, state["abstractions"])
    new = {
        "h": h,
        "time_state": time_state,
        "relations": relations,
        "causal_mask": mask,
        "abstractions": abstractions,
        "sums": sums,
    }
    return new, {"h_mid": h_mid, "context": context}


def rwkv(c, p, x, h, time_state, sums):
    z = norm(p, "rwkv.norm", np.concatenate([x, h], -1))
    a, b, d = np.split(linear(p, "rwkv.project", z), 3, -1)
    if c.core == "ema":
        mixed = sigmoid(a) * h + sigmoid(b) * activated(c, c.activation, d)
    else:  # numerator and denominator without the rescaling that keeps float32 from overflowing
        u, w = p["rwkv.time_first"], np.exp(p["rwkv.time_decay"])
        top, bottom = sums[:, 0], sums[:, 1]
        mixed = sigmoid(d) * (top + np.exp(u + a) * b) / (bottom + np.exp(u + a))
        sums = np.stack([np.exp(-w) * top + np.exp(a) * b, np.exp(-w) * bottom + np.exp(a)], 1)
    decay, mix = sigmoid(p["rwkv.decay_logit"]), sigmoid(p["rwkv.mix_logit"])
    time_state = decay * time_state + (1 - decay) * h
    return mix * mixed + (1 - mix) * time_state, time_state, sums


def bind(c, p, h_mid, relations, mask):
    new = norm(p, "bind.relation_norm", linear(p, "bind.bind", h_mid).reshape(relations.shape))
    ratio = sigmoid(p["bind.relation_logit"])
    relations = ratio * new + (1 - ratio) * relations
    logits = norm(p, "bind.mask_norm", linear(p, "bind.mask", h_mid).reshape(mask.shape))
    new = np.zeros_like(mask)
    for row in range(mask.shape[1]):
        seen = row + 1 if c.gating == "lower_triangular" else mask.shape[1]
        new[:, row, :seen] = softmax(logits[:, row, :seen])
    ratio = sigmoid(p["bind.mask_logit"])
    return relations, ratio * new + (1 - ratio) * mask


def reduce(c, p, h_mid, relations, mask, abstractions):
    batch, slots = mask.shape[:2]
    means = relations.mean(2)
    if c.double_softmax:
        mask = softmax(mask)
    context = np.zeros((batch, c.relation_size))
    if c.pooling == "attention":
        query = h_mid @ p["reduce.query.kernel"]
        for b in range(batch):
            read = mask[b] @ means[b]
            context[b] = softmax(read @ query[b] / np.sqrt(c.relation_size)) @ read
    for s in range(slots if c.pooling == "mean" else 0):
        if c.gating == "diagonal":
            context += mask[:, s, s, None] * means[:, s]
        else:
            for other in range(slots):
                context += mask[:, s, other, None] * means[:, other] / slots
    lower, updated = np.concatenate([h_mid, context], -1), []
    for level, a in enumerate(abstractions):
        name = f"reduce.layers.{level}"
        m = norm(p, f"{name}.norm_in", np.concatenate([lower, a], -1))
        gate, query, candidate = np.split(linear(p, f"{name}.update", m), 3, -1)
        gate = sigmoid(gate)
        update = gate * a + (1 - gate) * activated(c, "gelu", candidate + sigmoid(query) * a)
        updated.append(norm(p, f"{name}.norm_out", update))
        if f"{name}.upper.kernel" in p:
            lower = linear(p, f"{name}.upper", np.concatenate([lower, update], -1))
    h = updated[0]
    if c.topdown:
        for level, a in enumerate(updated[1:]):
            h = h + a @ p[f"reduce.topdown.{level}.kernel"]
        h = norm(p, "reduce.norm_h", h)
    return h, updated, context


def linear(p, name, x):
    return x @ p[f"{name}.kernel"] + p[f"{name}.bias"]


def norm(p, name, x):
    x = x - x.mean(-1, keepdims=True)
    return (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.scale"] + p[f"{name}.bias"]
    )


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    """Apply the tanh approximation, as `jax.nn.gelu`."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_exact(x):
    """x Phi(x), as torch's nn.GELU."""
    return x * (1 + np.vectorize(math.erf)(x / np.sqrt(2))) / 2


ACTIVATIONS = {"gelu": gelu, "silu": lambda x: x * sigmoid(x), "relu": lambda x: np.maximum(x, 0)}


def activated(c, name, x):
    return gelu_exact(x) if name == "gelu" and c.exact_gelu else ACTIVATIONS[name](x)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def from_jax(state):
    """A UnifiedState as a state of this file."""
    wide = {
        name: np.asarray(getattr(state, name), np.float64)
        for name in ("h", "time_state", "relations", "causal_mask")
    }
    sums = np.zeros((state.h.shape[0], 2, state.h.shape[1]))
    if state.wkv is not None:
        top, bottom, scale = np.moveaxis(np.asarray(state.wkv, np.float64), 1, 0)
        sums = np.stack([top, bottom], 1) * np.exp(scale)[:, None]
    abstractions = [np.asarray(a, np.float64) for a in state.abstractions]
    return dict(wide, abstractions=abstractions, sums=sums)


def _select(reset, new, old):
    return np.where(reset.reshape(-1, *[1] * (old.ndim - 1)), new, old)


def _tree(function, new, old):
    pairs = {name: (new[name], old[name]) for name in new if name != "abstractions"}
    out = {name: function(*pair) for name, pair in pairs.items()}
    both = zip(new["abstractions"], old["abstractions"], strict=True)
    return dict(out, abstractions=[function(*pair) for pair in both])
