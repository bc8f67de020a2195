"""RWKV-4, -6 and -7 in float64 NumPy, one token at a time, over tensors as BlinkDL names and lays
them out: written from the papers' equations, without jaxmodels.

`random_tensors` makes a small checkpoint, `logits` runs one. C width, H heads, N head size.
"""

import numpy as np

WIDTH, HEAD, VOCAB, LAYERS, HIDDEN = 32, 8, 24, 3, 96
RANKS_6 = (5, 6)  # of the mixes and of the decay
RANKS_7 = {"w": 3, "a": 4, "v": 5, "g": 6}


def random_tensors(version: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A state dict, float32; none is 0 or 1 throughout. Version 7: no v0, v1, v2 in layer 0."""
    rng = np.random.default_rng(seed)
    tensors = {}

    def draw(name, *shape, center=0.0, scale=0.3):
        tensors[name] = (center + scale * rng.standard_normal(shape)).astype(np.float32)

    def matrix(name, outputs, inputs):
        draw(f"{name}.weight", outputs, inputs, scale=1.0 / np.sqrt(inputs))

    def norm(name):
        draw(f"{name}.weight", WIDTH, center=1.0)
        draw(f"{name}.bias", WIDTH)

    draw("emb.weight", VOCAB, WIDTH, scale=1.0)
    for i in range(LAYERS):
        att, ffn = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in ["ln0"] * (i == 0) + ["ln1", "ln2"]:
            norm(f"blocks.{i}.{name}")
        for name in ("receptance", "key", "value", "output") + ("gate",) * (version == 6):
            matrix(att + name, WIDTH, WIDTH)
        matrix(ffn + "key", HIDDEN, WIDTH)
        matrix(ffn + "value", WIDTH, HIDDEN)
        if version != 7:
            matrix(ffn + "receptance", WIDTH, WIDTH)
        if version != 4:
            norm(att + "ln_x")
        if version == 4:
            draw(att + "time_decay", WIDTH, center=-1.0, scale=1.0)
            draw(att + "time_first", WIDTH)
            for name in (att + "time_mix_k", att + "time_mix_v", att + "time_mix_r"):
                draw(name, 1, 1, WIDTH, center=0.5)
            for name in (ffn + "time_mix_k", ffn + "time_mix_r"):
                draw(name, 1, 1, WIDTH, center=0.5)
        if version == 6:
            for name in [att + f"time_maa_{m}" for m in "xwkvrg"] + [ffn + "time_maa_k"]:
                draw(name, 1, 1, WIDTH, center=0.5)
            draw(ffn + "time_maa_r", 1, 1, WIDTH, center=0.5)
            draw(att + "time_maa_w1", WIDTH, 5 * RANKS_6[0])
            draw(att + "time_maa_w2", 5, RANKS_6[0], WIDTH)
            draw(att + "time_decay", 1, 1, WIDTH, center=-1.0, scale=1.0)
            draw(att + "time_decay_w1", WIDTH, RANKS_6[1])
            draw(att + "time_decay_w2", RANKS_6[1], WIDTH)
            draw(att + "time_faaaa", WIDTH // HEAD, HEAD)
        if version == 7:
            for name in [att + f"x_{m}" for m in "rwkvag"] + [ffn + "x_k"]:
                draw(name, 1, 1, WIDTH, center=0.5)
            for m, rank in RANKS_7.items():
                if (m, i) == ("v", 0):
                    continue
                if m != "g":
                    draw(att + m + "0", 1, 1, WIDTH, scale=1.0)
                draw(att + m + "1", WIDTH, rank)
                draw(att + m + "2", rank, WIDTH)
            draw(att + "k_k", 1, 1, WIDTH, center=0.7)
            draw(att + "k_a", 1, 1, WIDTH, center=1.0)
            draw(att + "r_k", WIDTH // HEAD, HEAD)
    norm("ln_out")
    matrix("head", VOCAB, WIDTH)
    return tensors


def logits(version: int, tensors: dict[str, np.ndarray], tokens) -> np.ndarray:
    """tokens (T,) from a zero state -> (T, vocab) float64."""
    z = {k: np.asarray(v, np.float64).squeeze() for k, v in tensors.items()}
    layers = 1 + max(int(k.split(".")[1]) for k in z if k.startswith("blocks."))
    width = z["emb.weight"].shape[1]
    time = {4: _time_4, 6: _time_6, 7: _time_7}[version]
    states = [{"att": np.zeros(width), "ffn": np.zeros(width)} for _ in range(layers)]
    out = []
    for token in tokens:
        x = _norm(z["emb.weight"][token], z, "blocks.0.ln0")
        shared = {}
        for i, state in enumerate(states):
            block = {k.removeprefix(f"blocks.{i}."): v for k, v in z.items()}
            normed = _norm(x, block, "ln1")
            x = x + time(normed, state.pop("att"), block, state, shared)
            state["att"] = normed
            normed = _norm(x, block, "ln2")
            x = x + _channel(version, normed, state["ffn"], block)
            state["ffn"] = normed
        out.append(z["head.weight"] @ _norm(x, z, "ln_out"))
    return np.stack(out)


def _time_4(x, before, z, state, shared):
    del shared
    k, v, r = (
        z[f"att.{name}.weight"] @ (x * m + before * (1.0 - m))
        for name, m in (
            ("key", z["att.time_mix_k"]),
            ("value", z["att.time_mix_v"]),
            ("receptance", z["att.time_mix_r"]),
        )
    )
    p, q = state.get("p", 0.0), state.get("q", 0.0)  # plain sums: float64 is wide enough here
    now = np.exp(z["att.time_first"] + k)
    y = (p + now * v) / (q + now)
    decay = np.exp(-np.exp(z["att.time_decay"]))
    state["p"], state["q"] = decay * p + np.exp(k) * v, decay * q + np.exp(k)
    return z["att.output.weight"] @ (_sigmoid(r) * y)


def _time_6(x, before, z, state, shared):
    del shared
    sx = before - x
    rank = z["att.time_maa_w2"].shape[1]
    mixes = np.tanh((x + sx * z["att.time_maa_x"]) @ z["att.time_maa_w1"]).reshape(5, rank)
    mixes = [mixes[j] @ z["att.time_maa_w2"][j] for j in range(5)]
    xw, xk, xv, xr, xg = (
        x + sx * (z[f"att.time_maa_{m}"] + mix) for m, mix in zip("wkvrg", mixes, strict=True)
    )
    heads = z["att.time_faaaa"].shape
    r, k, v = (
        (z[f"att.{name}.weight"] @ mixed).reshape(heads)
        for name, mixed in (("receptance", xr), ("key", xk), ("value", xv))
    )
    gate = z["att.gate.weight"] @ xg
    raw = z["att.time_decay"] + np.tanh(xw @ z["att.time_decay_w1"]) @ z["att.time_decay_w2"]
    decay = np.exp(-np.exp(raw)).reshape(heads)
    s = state.get("s", np.zeros((*heads, heads[1])))  # (H, key, value)
    kv = k[:, :, None] * v[:, None, :]
    y = np.einsum("hk,hkv->hv", r, s + z["att.time_faaaa"][:, :, None] * kv)
    state["s"] = decay[:, :, None] * s + kv
    y = _group_norm(y, z)
    return z["att.output.weight"] @ (y * gate * _sigmoid(gate))


def _time_7(x, before, z, state, shared):
    heads = z["att.r_k"].shape
    xr, xw, xk, xv, xa, xg = (x + (before - x) * z[f"att.x_{m}"] for m in "rwkvag")
    r, k, v = (
        z[f"att.{name}.weight"] @ mixed
        for name, mixed in (("receptance", xr), ("key", xk), ("value", xv))
    )
    d = z["att.w0"] + np.tanh(xw @ z["att.w1"]) @ z["att.w2"]
    decay = np.exp(-np.exp(-0.5) * _sigmoid(d)).reshape(heads)
    if "v" in shared:
        v = v + (shared["v"] - v) * _sigmoid(z["att.v0"] + (xv @ z["att.v1"]) @ z["att.v2"])
    shared.setdefault("v", v)
    a = _sigmoid(z["att.a0"] + (xa @ z["att.a1"]) @ z["att.a2"])
    gate = _sigmoid(xg @ z["att.g1"]) @ z["att.g2"]
    kk = (k * z["att.k_k"]).reshape(heads)
    kk = kk / np.linalg.norm(kk, axis=1, keepdims=True)
    k = k * (1.0 + (a - 1.0) * z["att.k_a"])
    r, k, v, a = (u.reshape(heads) for u in (r, k, v, a))
    s = state.get("s", np.zeros((*heads, heads[1])))  # (H, value, key)
    removed = np.einsum("hvk,hk->hv", s, -kk)
    s = s * decay[:, None, :] + removed[:, :, None] * (kk * a)[:, None, :]
    s = state["s"] = s + v[:, :, None] * k[:, None, :]
    y = _group_norm(np.einsum("hvk,hk->hv", s, r), z)
    bonus = (r * k * z["att.r_k"]).sum(1, keepdims=True)
    return z["att.output.weight"] @ ((y + (bonus * v).reshape(-1)) * gate)


def _channel(version, x, before, z):
    if version == 4:
        mixes = [1.0 - z["ffn.time_mix_k"], 1.0 - z["ffn.time_mix_r"]]
    else:
        names = {6: ("time_maa_k", "time_maa_r"), 7: ("x_k",)}[version]
        mixes = [z[f"ffn.{name}"] for name in names]
    mixed = [x + (before - x) * mix for mix in mixes]
    out = z["ffn.value.weight"] @ np.maximum(z["ffn.key.weight"] @ mixed[0], 0.0) ** 2
    return out if version == 7 else _sigmoid(z["ffn.receptance.weight"] @ mixed[1]) * out


def _norm(x, z, name):
    x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return x * z[f"{name}.weight"] + z[f"{name}.bias"]


def _group_norm(y, z):
    y = y - y.mean(1, keepdims=True)
    y = y / np.sqrt((y * y).mean(1, keepdims=True) + 64e-5)
    return y.reshape(-1) * z["att.ln_x.weight"] + z["att.ln_x.bias"]


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))
