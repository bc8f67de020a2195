"""Per-layer intermediates of a GroundThink model, for diagnostics.

Equal to the model's call, but slower: it runs layer by layer, with one compiled program per kind of
layer, so that compilation stays short for deep models.
"""

import jax
import jax.numpy as jnp


def intermediates(model, state, tokens, reset=None):
    """Return the state after the tokens and one dict of float32 arrays per layer.

    Args:
      model: a `GroundThink`.
      state, tokens (B, T), reset: as for the model's `__call__`.

    Returns:
      (state, dicts), each dict with those keys that apply to the layer:
        rwkv_out, mamba_out, mixer_out (B, T, C): output of each path before its norm, of the mixer.
        rwkv_state (B, H, K, V), mamba_state (B, H, N, P), gla_state (B, H, K, V): after the tokens.
        rwkv_retention (B, T, H, K), mamba_retention (B, T, H), gla_retention (B, T, H): decay
          factor of the state at each token. mamba_delta (B, T, H): step size. Each channel of
          Mamba-1 counts as a head.
        write (B, T): write gate, if the config has one.
    """
    xs = model.embed_tokens(tokens)
    states, intermediates = [], []
    for index, kind in enumerate(model.kinds):
        before = model.layer_state(state, index)
        after, xs, arrays = _compiled(model.layer(index), kind, before, xs, reset)
        states.append(after)
        intermediates.append(arrays)
    return model.nested(states), intermediates


def layer_intermediates(layer, kind: str, state, xs, reset=None):
    """Run one layer of this kind on xs (B, T, C) -> (state, ys, its intermediates)."""
    normed = layer.norm_mixer(xs)
    read = {"attention": _attention, "gla": _gla}.get(kind, _hybrid)
    after, seen = read(layer.mixer, state, normed, reset)
    _, ys = layer.mixer(state, normed, reset)
    return after, layer._after(xs, ys), seen | {"mixer_out": ys}


_compiled = jax.jit(layer_intermediates, static_argnames="kind")


def _attention(mixer, state, xs, reset):
    return mixer(state, xs, reset)[0], {}


def _gla(mixer, state, xs, reset):
    after, _ = mixer(state, xs, reset)
    return after, {"gla_state": after.gla, "gla_retention": mixer.retention(xs)}


def _hybrid(mixer, state, xs, reset):
    after, outs = mixer.outputs(state, xs, reset)
    write = mixer.write(xs)
    seen = {f"{name}_out": out for name, out in outs.items()}
    if write is not None:
        seen["write"] = write
    for name in outs:
        path, before = getattr(mixer, name), getattr(state, name)
        inner = xs if path.down is None else path.down(xs, mixer.config.dtype)
        seen[f"{name}_retention"] = path.cell.retention(before, inner, reset, write)
        if name == "rwkv":
            seen["rwkv_state"] = after.rwkv.wkv
        else:
            seen["mamba_delta"] = path.cell.step_sizes(before, inner, reset, write)
            seen["mamba_state"] = _by_head(after.mamba.ssm, path.cell.config)
    return after, seen


def _by_head(ssm, config):
    """Reshape (B, G, N, D / G) of Mamba-2 or (B, N, D) of Mamba-1 to (B, H, N, P)."""
    if ssm.ndim == 3:
        return ssm.swapaxes(1, 2)[..., None]
    batch, groups, size, _ = ssm.shape
    heads = ssm.reshape(batch, groups, size, -1, config.head_size)
    return jnp.moveaxis(heads, 3, 2).reshape(batch, -1, size, config.head_size)
