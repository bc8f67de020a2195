"""Relations with known ground truth: the symbolic loss encodes them, the full readout reads them.

Chance levels are in `jaxmodels.data.synthetic.relations`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.cells.layers import Linear
from jaxmodels.cells.unified import HRMReducer, UnifiedConfig
from jaxmodels.data import RelationGrammar, relation_batch
from jaxmodels.models.contract import loss_weights, target_counts
from jaxmodels.testing.lab import quick_jit

SMALL = RelationGrammar(entities=2, values=4, questions=2, shuffled=False, slots=2, roles=3)
LARGER = RelationGrammar(entities=3, values=4, questions=2, shuffled=False, slots=3, roles=3)


def train(grammar, steps, rows=32, **changes):
    """{metric: mean over the last 20 batches}; no batch comes twice, so this is no memory test."""
    model = jaxmodels.create(
        "prernk",
        vocab_size=grammar.vocab_size,
        width=16,
        hidden_size=64,
        symbol_slots=grammar.slots,
        role_slots=grammar.roles,
        relation_size=16,
        abstraction_sizes=(64, 32),
        relations_every=1 if grammar is SMALL else 5,
        relation_vocab=grammar.num_classes,
        sparsity="none",
        fidelity="probe",
        fidelity_weight=1.0,
        symbolic_weight=1.0,
        ramp="constant",
        **changes,
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(5e-3, steps))
    )

    def loss(model, data):
        _, sums = model.loss_sums(model.initial_state(rows), data)
        counts, weights = target_counts(model, data), loss_weights(model, 1.0)
        means = {name: total / jnp.maximum(counts[name], 1.0) for name, total in sums.items()}
        return sum(weights[name] * means[name] for name in weights), means

    def step(carry, data):
        model, moments = carry
        (_, means), gradient = jax.value_and_grad(loss, has_aux=True)(model, data)
        updates, moments = optimizer.update(gradient, moments, model)
        return (optax.apply_updates(model, updates), moments), means

    run = quick_jit(lambda carry, data: jax.lax.scan(step, carry, data))
    carry, seen = (model, optimizer.init(model)), None
    for first in range(0, steps, 50):
        batches = [
            relation_batch(grammar, rows, grammar.episode_len, 0, first + i) for i in range(50)
        ]
        stacked = {name: np.stack([b[name] for b in batches]) for name in batches[0]}
        carry, seen = run(carry, stacked)
    return {name: float(values[-20:].mean()) for name, values in seen.items()}


def blind(grammar):
    """Return the accuracy of the best constant guess for each slot and role."""
    labels = relation_batch(grammar, 1000, grammar.episode_len, 1, 0)["relation_labels"]
    columns = labels.reshape(-1, grammar.slots * grammar.roles).T
    known = [column[column >= 0] for column in columns]
    return sum(np.bincount(k).max() for k in known) / sum(len(k) for k in known)


def compare(grammar, steps):
    with_loss, without = train(grammar, steps, symbolic="cross_entropy"), train(grammar, steps)
    for what, found in (("with the symbolic loss", with_loss), ("without", without)):
        numbers = {k: round(v, 3) for k, v in found.items() if "accuracy" in k or "exact" in k}
        print(f"{steps} steps {what}: {numbers}; blind {blind(grammar):.3f}")
    return with_loss, without, blind(grammar)


@pytest.mark.slow
def test_symbolic_loss_encodes_relations():
    """P-12, P-15: decoders that do not teach find them with the loss, and not without."""
    with_loss, without, level = compare(SMALL, 200)
    assert with_loss["symbolic_accuracy"] > level + 0.2
    assert with_loss["fidelity_accuracy"] > level + 0.08
    assert with_loss["fidelity_accuracy"] > without["fidelity_accuracy"] + 0.08
    assert without["fidelity_accuracy"] < level + 0.03


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_symbolic_loss_converges():
    """P-12, P-15: nearly all predicates can be read off, and the questions are answered, too."""
    with_loss, without, _ = compare(LARGER, 800)
    assert with_loss["symbolic_accuracy"] > 0.9
    assert with_loss["fidelity_accuracy"] > 0.85
    assert with_loss["fidelity_accuracy"] > without["fidelity_accuracy"] + 0.2
    assert with_loss["accuracy"] > 0.85


# Slots hold distinct classes; the mask is the identity but for one row i, which points at slot j.
# Wanted: the class in slot j. The full read-out is the mean over s of r_s, with r_j in the place of
# r_i: the class that counts twice is the answer. The diagonal one is the sum of r_s over s != i,
# whatever j is; given the contents and i, j is uniform among the others, so nobody who sees only
# that is right more often than once in SLOTS - 1.
SLOTS, CLASSES = 4, 6


def pointers(rng, rows):
    contents = np.argsort(rng.random((rows, CLASSES)), 1)[:, :SLOTS]
    source = rng.integers(0, SLOTS, rows)
    target = (source + rng.integers(1, SLOTS, rows)) % SLOTS
    mask = np.tile(np.eye(SLOTS, dtype=np.float32), (rows, 1, 1))
    mask[np.arange(rows), source] = np.eye(SLOTS, dtype=np.float32)[target]
    relations = np.eye(CLASSES, dtype=np.float32)[contents][:, :, None]
    return relations, mask, contents[np.arange(rows), target].astype(np.int32)


class PointerReader(nnx.Module):
    """Reducer and linear head; h_mid and the abstractions are zero."""

    def __init__(self, gating):
        config = UnifiedConfig(8, 16, SLOTS, 1, CLASSES, abstraction_sizes=(16, 8), gating=gating)
        self.reduce = HRMReducer(config, rngs=nnx.Rngs(0))
        self.head = Linear(16, CLASSES, rngs=nnx.Rngs(1))

    def __call__(self, relations, mask):
        zeros = [jnp.zeros((relations.shape[0], size)) for size in (16, 16, 8)]
        h, _, context = self.reduce(zeros[0], relations, mask, zeros[1:])
        return self.head(h), context


@functools.cache
def pointer_accuracy(gating, steps=400):
    reader, rng = PointerReader(gating), np.random.default_rng(0)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))

    def loss(reader, data):
        logits, _ = reader(*data[:2])
        return optax.softmax_cross_entropy_with_integer_labels(logits, data[2]).mean()

    def step(carry, data):
        reader, moments = carry
        updates, moments = optimizer.update(jax.grad(loss)(reader, data), moments)
        return (optax.apply_updates(reader, updates), moments), None

    data = [np.stack(part) for part in zip(*(pointers(rng, 64) for _ in range(steps)), strict=True)]
    run = quick_jit(lambda carry, data: jax.lax.scan(step, carry, data)[0][0])
    reader = run((reader, optimizer.init(reader)), data)
    relations, mask, wanted = pointers(rng, 4000)
    logits, _ = reader(relations, mask)
    return float((jnp.argmax(logits, -1) == wanted).mean())


@pytest.mark.slow
def test_diagonal_gating_cannot_follow_pointers():
    """P-08, Z-09: as written a slot cannot read another; no training helps."""
    relations, _, _ = pointers(np.random.default_rng(2), 1)
    seen = {"full": [], "diagonal": []}
    for target in (1, 2, 3):
        mask = jnp.eye(SLOTS).at[0].set(jnp.eye(SLOTS)[target])[None]
        for gating, contexts in seen.items():
            contexts.append(np.asarray(PointerReader(gating)(relations, mask)[1]))
    assert all((context == seen["diagonal"][0]).all() for context in seen["diagonal"])
    assert all((context != seen["full"][0]).any() for context in seen["full"][1:])

    full, diagonal = pointer_accuracy("full"), pointer_accuracy("diagonal")
    ceiling = 1 / (SLOTS - 1)
    print(f"full {full:.3f}, diagonal {diagonal:.3f}, its ceiling {ceiling:.3f}")
    assert full > 0.95
    assert diagonal < ceiling + 0.03  # 4 standard deviations of a mean of 4000
