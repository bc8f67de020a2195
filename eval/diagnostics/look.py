"""All diagnostics of one trained model, as plain dicts."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import jaxmodels
from eval.diagnostics import components, gates, passkey, persona, states, stress
from eval.diagnostics.gates import Verdict
from eval.diagnostics.reading import BLOCK, ROWS, excerpts, read, token_losses
from eval.log import Log
from jaxmodels.models.contract import traits_of
from jaxmodels.models.language import LanguageModel
from jaxmodels.models.observe import layer_intermediates
from train.control import health

PATHS = ("rwkv", "mamba", "gla")
PARTS = ("states", "components", "probes", "identity", "collapse")
BRIEF_OMITS = ("identity", "collapse")


@dataclasses.dataclass(frozen=True)
class Amounts:
    """Sizes of the diagnostics.

    Attributes:
        distances: passkey distances in tokens, ascending.
        rows: number of keys at each distance.
        context: tokens read before the states are recorded.
        watched: tokens during which the states are recorded.
        words: tokens generated after each persona's description.
        brief: skip the slow parts: forgetting, jitter, poisoning, identity and collapse.
    """

    distances: tuple[int, ...] = (0, 16, 64, 256)
    rows: int = 480
    context: int = 256
    watched: int = 64
    words: int = 200
    brief: bool = False


def diagnose(run, log: Log, amounts: Amounts, say: Callable[[str], None] = print) -> dict:
    """Run all diagnostics that the model supports; list the others under "missing".

    Args:
        run: result of `eval.run.load_run`.
        log: log of the run, for the gate on early training.
        amounts: see `Amounts`.
        say: called with the name of each stage.
    """
    model, tokenizer, traits = run.model, run.corpus.tokenizer, traits_of(run.model)
    documents = run.corpus.valid or run.corpus.train
    text = np.concatenate([np.asarray(d.tokens, np.int32) for d in documents[:200]])
    rng = np.random.default_rng(0)
    verdicts = [gates.control_tokens(tokenizer), _forward(model, text)]
    result: dict[str, Any] = {"missing": []}
    if traits.intermediates:
        say("states")
        tokens = excerpts(text, ROWS, amounts.context + amounts.watched, rng)
        result["states"], judged = states_of(model, tokens, amounts.context)
        fresh = jaxmodels.create(model.config, seed=run.config.seed)
        verdicts += [*_at_start(fresh, tokens, amounts.context), *judged]
    else:
        result["missing"].append(f"states: {run.config.model} does not expose its layers")
    if isinstance(model, LanguageModel):
        say("components")
        tokens = excerpts(text, ROWS, 2 * BLOCK + 1, rng)
        result["components"], judged = components_of(model, tokens)
        verdicts += judged
    else:
        result["missing"].append(f"components: {run.config.model} is not a LanguageModel")
    verdicts.append(_early(log))
    if traits.step:
        result["probes"], judged = probes_of(model, tokenizer, text, amounts, rng, say)
        verdicts += judged
    else:
        result["missing"].append(f"probes of memory: {run.config.model} cannot stream")
    if traits.step and not amounts.brief:
        say("identity")
        result["identity"] = persona.identity_suite(model, tokenizer, text, tokens=amounts.words)
        result["collapse"] = _collapse(model, tokenizer, text, rng)
    piece = excerpts(text, ROWS, 4 * BLOCK + 1, rng)
    loss = float(token_losses(model, model.initial_state(ROWS), piece)[1].mean())
    result["loss"] = loss
    verdicts.append(gates.scale_up(loss, tokenizer.vocab_size))
    verdicts.append(suite_of(result, amounts.brief))
    result["gates"] = [dataclasses.asdict(v) for v in verdicts]
    result["overall"] = gates.overall(verdicts)
    return result


def suite_of(result: dict, brief: bool) -> Verdict:
    """Judge G4 on the result of `diagnose`.

    Parts that the model cannot be asked fail it, except for the states of a model without any.
    """
    unasked = BRIEF_OMITS if brief else ()
    stateless = result.get("states", {}).get("layers") == []
    parts = [part for part in PARTS if part not in unasked and not (stateless and part == "states")]
    verdict = gates.suite(result, parts, unasked)
    says = f"{verdict.says}; there is no recurrent state to look at" if stateless else verdict.says
    return dataclasses.replace(verdict, says=says)


def _forward(model, text) -> Verdict:
    tokens = excerpts(text, ROWS, BLOCK, np.random.default_rng(0))
    _, logits = read(model, model.initial_state(ROWS), tokens)
    vocab = getattr(getattr(model, "config", None), "vocab_size", logits.shape[-1])
    return gates.forward(logits, (ROWS, vocab))


@functools.partial(jax.jit, static_argnames="kind")
def _watch_layer(layer, kind: str, state, xs):
    """Run a layer on xs (B, T, C) token by token; return (ys, intermediates (T, ...))."""

    def body(state, x):
        state, y, seen = layer_intermediates(layer, kind, state, x[:, None])
        return state, (y[:, 0], seen)

    _, (ys, seen) = jax.lax.scan(body, state, xs.swapaxes(0, 1))
    return ys.swapaxes(0, 1), seen


def watch(model, tokens, context: int) -> list[dict[str, np.ndarray]]:
    """Record the layers' intermediates token by token after the first `context` tokens.

    tokens: int (ROWS, T), of which the first two rows are recorded. Returns one dict per layer,
    with leading axis time.
    """
    state = model.initial_state(len(tokens))
    if context:
        state, _ = read(model, state, tokens[:, :context])
    state = jax.tree.map(lambda x: x[:2], state)
    xs = model.embed_tokens(tokens[:2, context:])
    layers = []
    for index, kind in enumerate(model.kinds):
        before = model.layer_state(state, index)
        xs, seen = _watch_layer(model.layer(index), kind, before, xs)
        layers.append({name: np.asarray(x) for name, x in seen.items()})
    return layers


def states_of(model, tokens, context: int) -> tuple[dict, list[Verdict]]:
    """Return statistics and verdicts of every layer's states after the first `context` tokens."""
    seen = watch(model, tokens, context)
    layers, cosines = [], {}
    for depth, (kind, layer) in enumerate(zip(model.kinds, seen, strict=True)):
        for name in PATHS:
            if f"{name}_state" not in layer:
                continue
            cosine = states.consecutive_cosine(layer[f"{name}_state"])
            cosines.setdefault(name, {})[depth] = cosine
            numbers = {"layer": depth, "kind": kind, "component": name}
            layers.append(numbers | _path(layer, name, cosine))
    evolutions, verdicts = {}, []
    for name, by_depth in cosines.items():
        evolution = states.evolution(by_depth.values(), tuple(by_depth), len(model.kinds))
        evolutions[name] = dataclasses.asdict(evolution)
        rows = [row for row in layers if row["component"] == name]
        worst = min(rows, key=lambda row: row["top5_lowest"])
        rank = float(np.mean([row["effective_rank"] for row in rows]))
        saturated = max(row["saturation"] for row in rows)
        judged = [gates.movement(evolution), gates.cosine_variance(evolution)]
        judged.append(gates.low_rank_gate(worst["top5_lowest"], rank, worst["top5_gaussian"]))
        judged.append(gates.saturation_gate(saturated))
        verdicts += [dataclasses.replace(v, gate=f"{v.gate}, {name}") for v in judged]
    return {"layers": layers, "evolution": evolutions}, verdicts


def _path(layer, name: str, cosine) -> dict:
    """Return the statistics of one path of one layer. Arrays of `layer`: (T, B, ...)."""
    history = layer[f"{name}_state"]
    last, mean = history[-1], float(cosine.mean())
    entropy, ranks = health.state_entropy(last), states.effective_rank(last)
    numbers = {
        "norm": health.state_norm(last),
        "entropy": entropy,
        "entropy_label": states.entropy_label(entropy),
        "effective_rank": float(ranks.mean()),
        "utilisation": states.utilisation(last),
        "live_share": states.live_share(history.reshape(-1, *history.shape[2:])),
        "top5_lowest": float(states.top_ratio(last).min()),
        "top5_gaussian": states.gaussian_top_ratio(*last.shape[-2:]),
        "saturation": states.saturation(last),
        "cosine": mean,
        "cosine_variance": float(cosine.var()),
        "movement": states.movement_label(mean),
        "capacity": states.worldview_capacity(last.shape[-2], mean),
        "retention": states.decays(layer[f"{name}_retention"][:, :, 0]),
    }
    if f"{name}_out" in layer:
        variance, collapsed = states.output_variance(layer[f"{name}_out"][:, :, 0])
        numbers |= {"output_variance": variance, "output_collapsed": collapsed}
    if f"{name}_delta" in layer:
        variance, constant = states.selection_variance(layer[f"{name}_delta"][:, :, 0])
        numbers |= {"selection_variance": variance, "selection_constant": constant}
    if "write" in layer:
        numbers["skipped_writes"] = float((layer["write"] == 0.0).mean())
    return numbers


def _at_start(fresh, tokens, context: int) -> list[Verdict]:
    """Judge G2 on the untrained model."""
    verdicts = []
    seen = watch(fresh, tokens, context)
    for name in PATHS:
        last = [layer[f"{name}_state"][-1] for layer in seen if f"{name}_state" in layer]
        if last:
            entropy = float(np.mean([health.state_entropy(x) for x in last]))
            verdict = gates.entropy_at_start(entropy, last[0].shape[-1])
            verdicts.append(dataclasses.replace(verdict, gate=f"{verdict.gate}, {name}"))
    return verdicts


def components_of(model, tokens) -> tuple[dict, list[Verdict]]:
    """Return gradients, ablations and verdicts of the components on tokens int (B, T + 1)."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    batch = {"inputs": inputs, "targets": targets, "weights": np.ones(inputs.shape, np.float32)}
    grads = components.gradients(model, batch | {"reset": np.zeros(inputs.shape, bool)})
    norms = components.component_norms(grads, components.labeller(model))
    ratios, shift = components.ratios(norms), components.phase_shift(grads)
    verdicts = [shift]
    if ratios:
        verdicts.append(gates.balance(ratios["raw"]))
        verdicts.append(gates.balance(ratios["rms"], "gradient per parameter"))
    result = {
        "gradients": norms,
        "rwkv_over_mamba": ratios,
        "step_sizes_over_others": shift.value,
        "dominance": components.dominance(model, tokens),
    }
    return result, verdicts


def probes_of(model, tokenizer, text, amounts: Amounts, rng, say) -> tuple[dict, list[Verdict]]:
    """Return passkey recall, linear probes and tau; unless brief also eta, jitter, poisoning."""
    keys = passkey.passkey_of(tokenizer, text)
    recalls = []
    for distance in amounts.distances:
        say(f"passkey at {distance} tokens")
        recalls.append(passkey.recall(model, keys, distance, rows=amounts.rows))
    probed = [r.best.accuracy for r in recalls if r.best]
    result = {
        "symbols": keys.shown,
        "chance": passkey.CHANCE,
        "recall": [dataclasses.asdict(r) | {"accuracy": r.accuracy} for r in recalls],
        "tau": passkey.persistence(amounts.distances, [r.accuracy for r in recalls]),
        "tau_probe": passkey.persistence(amounts.distances, probed) if probed else None,
    }
    if amounts.brief:
        return result, _memory(recalls)
    say("forgetting, jitter, poisoning")
    result |= {
        "forgetting": passkey.forgetting(model, keys, amounts.distances[:2][-1]),
        "jitter": stress.jitter(model, excerpts(text, ROWS, 4 * BLOCK + 1, rng)),
        "poisoning": stress.poisoning(model, text, tokenizer.vocab_size),
    }
    return result, _memory(recalls)


def _memory(recalls: Sequence[passkey.Recall]) -> list[Verdict]:
    """Judge useful memory at the largest distance up to 64 tokens, or else the smallest."""
    recall = ([r for r in recalls if r.distance <= 64] or recalls[:1])[-1]
    scores = {"answers": recall} | ({"linear probe": recall.best} if recall.best else {})
    verdicts = []
    for name, score in scores.items():
        verdict = gates.useful_memory(score.correct, score.asked, passkey.CHANCE)
        gate = f"{verdict.gate} at {recall.distance} tokens, {name}"
        verdicts.append(dataclasses.replace(verdict, gate=gate))
    return verdicts


def _early(log: Log) -> Verdict:
    first = [row for row in log.rows if row["split"] == "train" and row["step"] <= 1000]
    losses = [row["next_token"] for row in first if "next_token" in row]
    return gates.early_training(losses, [row["grad_norm"] for row in first if "grad_norm" in row])


def _collapse(model, tokenizer, text, rng) -> dict:
    tokens = excerpts(text, ROWS, BLOCK, rng)
    _, logits = read(model, model.initial_state(ROWS), tokens)
    sample = persona.generate_text(model, tokenizer, ["\n"], 400)[0]
    table = getattr(getattr(model, "embed", None), "table", None)
    table = np.zeros((1, 1)) if table is None else table[...]
    return persona.mode_collapse(table, jax.nn.softmax(logits, -1), sample)
