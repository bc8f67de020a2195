"""What happens inside a GroundThink model while it reads: for diagnostics, layer by layer.

Slower than the model's call and equal to it: the layers are gone through one by one, by a program
for each kind of layer, so that looking at a deep model takes no long compilation.
"""

import functools

import jax
import jax.numpy as jnp


def intermediates(model, state, tokens, reset=None):
    """Args:
      model: a `GroundThink`.
      state, tokens (B, T), reset: as for the call of the model.

    Returns:
      (state after the tokens, one dict a layer) with, as far as the layer has them, float32:
        rwkv_out, mamba_out, mixer_out (B, T, C): of each path before its norm, and of the mixer.
        rwkv_state (B, H, K, V), mamba_state (B, H, N, P), gla_state (B, H, K, V): after the tokens.
        rwkv_retention (B, T, H, K), mamba_retention (B, T, H), gla_retention (B, T, H): what each
          token multiplies the state by. mamba_delta (B, T, H): its step size. Mamba-1's channels
          are heads here.
        write (B, T): how far each token may change the states, if the config has that gate.
    """
    xs = model.embed_tokens(tokens)
    states, seen = [], []
    for index, kind in enumerate(model.kinds):
        before = model.layer_state(state, index)
        after, xs, layer_seen = _compiled(model.layer(index), kind, before, xs, reset)
        states.append(after)
        seen.append(layer_seen)
    return model.nested(states), seen


def layer_intermediates(layer, kind: str, state, xs, reset=None):
    """Read one layer of this kind on the residual stream: -> (state, ys, its intermediates)."""
    normed = layer.norm_mixer(xs)
    look = {"attention": _attention, "gla": _gla}.get(kind, _hybrid)
    after, seen = look(layer.mixer, state, normed, reset)
    _, ys = layer.mixer(state, normed, reset)
    return after, layer._after(xs, ys), seen | {"mixer_out": ys}


@functools.partial(jax.jit, static_argnames="kind")
def _compiled(layer, kind: str, state, xs, reset):
    return layer_intermediates(layer, kind, state, xs, reset)


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
    """(B, G, N, D / G) of Mamba-2 or (B, N, D) of Mamba-1 -> (B, H, N, P)."""
    if ssm.ndim == 3:
        return ssm.swapaxes(1, 2)[..., None]
    batch, groups, size, _ = ssm.shape
    heads = ssm.reshape(batch, groups, size, -1, config.head_size)
    return jnp.moveaxis(heads, 3, 2).reshape(batch, -1, size, config.head_size)
