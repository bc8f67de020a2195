"""HFT: it learns, equally on any number of devices; its parts do what they are there for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.cells.hypertensor import FieldConfig, field_bytes, predict, random_field, read
from jaxmodels.cells.hypertensor.candidates import candidates, recall
from jaxmodels.cells.hypertensor.relocation import Queue, dead_tensors, push
from jaxmodels.errors import UserError
from jaxmodels.models.hft.learn import _places, relocate, stage_one_target
from jaxmodels.models.hft.whitener import whitened
from jaxmodels.ops.losses import token_nll
from jaxmodels.testing.lab import quick_jit
from jaxmodels.testing.models import check_model
from jaxmodels.tree import flatten
from tests.train.test_step import ROUNDING
from train.config import complete_config
from train.devices.placement import Placement
from train.model import resolve_vocab

SMALL = {
    "vocab_size": 13,
    "window": 4,
    "ngram_orders": (2, 3),
    "ngram_bins": 128,
    "sketch_size": 128,
    "width": 32,
    "tensors": 128,
    "top_k": 8,
    "temperature": 0.1,
    "geometry_rate": 0.02,
    "queue": 16,
    "relocated": 8,
    "relocate_every": 4,
}


def small(**changes):
    return jaxmodels.create("hft", seed=0, **(SMALL | changes))


def batches(count, rows=8, time=16, seed=0):
    """Text of a second-order rule with noise: unigrams are uniform, pairs determine most."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        tokens = rng.integers(0, 13, (rows, time + 1))
        for t in range(2, time + 1):
            rule = (3 * tokens[:, t - 1] + 5 * tokens[:, t - 2] + 1) % 13
            tokens[:, t] = np.where(rng.random(rows) < 0.9, rule, tokens[:, t])
        weights = np.ones((rows, time), np.float32)
        weights[0, -3:] = 0.0
        reset = np.zeros((rows, time), bool)
        reset[:, 0] = True
        out.append(
            {
                "inputs": tokens[:, :-1].astype(np.int32),
                "targets": tokens[:, 1:].astype(np.int32),
                "weights": weights,
                "reset": reset,
            }
        )
    return out


def run(devices=1, steps=30, parallel="pmap", tensor=1, **changes):
    """Train: ([loss], last state)."""
    config = complete_config(
        {
            "model": "hft",
            "model_config": SMALL | changes,
            "steps": steps,
            "batch_size": 8,
            "seq_len": 16,
            "parallel": parallel,
            "mesh": {"tensor": tensor},
        }
    )
    placement = Placement(config, jax.devices()[:devices])
    state, losses = placement.fresh_state(), []
    for batch in batches(steps):
        state, metrics = placement.step(state, placement.put_rows(batch))
        losses.append(float(metrics["next_token"].reshape(-1)[0]))
    return losses, state


@pytest.fixture(scope="module")
def learned():
    return run()


def test_two_stages_conform():
    """One stage does so in tests/models/test_contract.py."""
    fields = SMALL | {"vocab_size": 17, "window": 8, "compressor": 24, "compressed": 8}
    check_model(jaxmodels.make_config("hft", **fields))


def test_learns_far_below_the_entropy_of_its_targets(learned):
    losses, _ = learned
    assert abs(losses[0] - np.log(13)) < 0.1
    assert np.mean(losses[-3:]) < np.log(13) - 0.7  # unigrams are uniform: chance is log 13


def test_candidates_of_cells_learn_as_all_distances_do(learned):
    """F-12: search is exact until all tensors are seeded, then in a part of the cells."""
    losses, state = run(search="cells", cell_size=16, probes=3, rebuild_every=4)
    assert abs(np.mean(losses[-3:]) - np.mean(learned[0][-3:])) < 0.1
    model = jax.device_get(state.model)
    assert 0 <= int(model.quantizer.lost) < 16
    x = quick_jit(lambda m, b: m.features(m.initial_state(8), b["inputs"], b["reset"])[1])(
        model, batches(1, seed=1)[0]
    ).reshape(-1, 32)
    near = quick_jit(lambda q, x: candidates(q, x, 3))(model.quantizer, x)
    assert near.shape == (128, 3 * 32)
    _, out = quick_jit(lambda m, b: m(m.initial_state(8), b["inputs"], b["reset"]))(
        model, batches(1, seed=1)[0]
    )
    found = np.asarray(out.reading.index)
    assert all(set(row) <= set(among) for row, among in zip(found, np.asarray(near), strict=True))
    exact = read(model.config.predictor, model.field, x, sparse=True).index
    assert 0.6 < float(recall(found, exact)) < 1.0


def test_large_fields_search_in_cells_unless_told_otherwise():
    def cells(**changes):
        return jaxmodels.make_config("hft", **changes).cells

    assert cells(tensors=20_000) == 0 and cells(tensors=20_001) == 157
    assert cells(tensors=20_001, search="exact") == 0 and cells(search="cells") == 32
    assert jaxmodels.make_config("hft/as_written", tensors=20_001).cells == 0
    with pytest.raises(UserError, match="search='cells' looks for near anchors"):
        jaxmodels.make_config("hft/as_written", search="cells")


def test_features_are_whitened_after_the_first_batches_on_any_number_of_devices():
    """F-05: nothing else is learned before; then the covariance is near 1 / d, and it learns."""
    one, state = run(steps=24, whiten_after=6)
    np.testing.assert_allclose(one[:6], np.log(13), rtol=0.02)
    assert np.mean(one[-3:]) < np.log(13) - 0.4
    two, _ = run(devices=2, steps=9, whiten_after=6)
    np.testing.assert_allclose(two, one[:9], rtol=1e-3)  # eigenvectors amplify rounding
    model = jax.device_get(state.model)
    read = quick_jit(lambda m, b: m.features(m.initial_state(8), b["inputs"], b["reset"])[1])
    x = np.concatenate([np.asarray(read(model, b)).reshape(-1, 32) for b in batches(6)])
    assert np.abs(32 * np.cov(x.T) - np.eye(32)).max() < 0.2
    assert not np.asarray(model.whitener.products).any()


def test_directions_of_little_variance_are_dropped():
    """F-05: PCA, fitted on the first batches. What is kept has as much variance as r can have."""
    model = small(whiten_after=2, whiten_power=0.0, directions=12)
    assert model.field.normal.shape == (128, 12)
    for batch in batches(3):
        model = update(model, batch)
    assert int(model.seeded[...]) == 125
    state, x = model.initial_state(8), []
    for batch in batches(2):
        _, own = model.projected(state, batch["inputs"], batch["reset"])
        x.append(np.asarray(own)[batch["weights"] > 0])
    x = np.concatenate(x)
    kept = np.asarray(whitened(model.whitener, x))
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1][:12]
    scaled = np.cov(kept.T) / np.trace(np.cov(kept.T)) * variances.sum()
    np.testing.assert_allclose(scaled, np.diag(variances), atol=0.01 * variances[0])
    np.testing.assert_allclose((kept**2).sum(1).mean(), 1.0, rtol=0.01)


@pytest.mark.parametrize(("devices", "parallel"), [(8, "pmap"), (2, "shard_map")])
def test_learns_the_same_on_any_number_of_devices(learned, devices, parallel):
    """Ten updates, two relocations; later, normals that rounding has moved find others near."""
    losses, state = run(devices, steps=10, parallel=parallel)
    np.testing.assert_allclose(losses, learned[0][:10], rtol=20 * ROUNDING)
    assert int(state.model.field.updates.reshape(-1)[0]) == 10


# Where all columns are still equal, the gradient of normals is of rounding errors alone, and a step
# over its root has full length: two programs go different ways. That step itself is compared in
# tests/cells/hypertensor/test_split.py.
STILL = {"geometry_rate": 0.0, "relocate_every": 2, "dead_usage": 0.9}


@pytest.fixture(scope="module")
def learned_still():
    return run(steps=9, **STILL)


@pytest.mark.parametrize(("devices", "tensor"), [(2, 2), (8, 4), (8, 8)])
def test_tensors_split_over_devices_learn_the_same(learned_still, devices, tensor):
    """F-12: each device holds a part; seeding, statistics and relocation are those of one."""
    one, whole = learned_still
    losses, state = run(devices, 9, "shard_map", tensor, **STILL)
    np.testing.assert_allclose(losses, one, rtol=20 * ROUNDING)
    for name, x in flatten(state.model).items():
        rows = {shard.data.shape[:1] for shard in x.addressable_shards}
        of_tensors = name.startswith("field/") and x.ndim
        assert rows == ({(128 // tensor,)} if of_tensors else {x.shape[:1]}), name
    moved = int(whole.model.relocated[...])
    assert moved > 0 and int(state.model.relocated[...]) == moved
    got, want = (jax.device_get(s.model.field.normal) for s in (state, whole))
    assert (got != want).mean() < 0.01  # float16: sums seldom fall to another side


def test_two_stages_and_cells_of_a_split_field_are_those_of_the_whole():
    changes = STILL | {"search": "cells", "cell_size": 16, "probes": 3, "rebuild_every": 4}
    changes |= {"compressor": 24, "compressed": 8}
    one, whole = run(steps=6, **changes)
    losses, state = run(2, 6, "shard_map", 2, **changes)
    np.testing.assert_allclose(losses, one, rtol=20 * ROUNDING)
    got, want = (jax.device_get(s.model.quantizer) for s in (state, whole))
    assert int(want.lost) >= 0
    assert (got.members == want.members).mean() > 0.9


@pytest.mark.parametrize(
    ("mesh", "parallel", "says"),
    [
        ({"tensor": 8}, "shard_map", "tensor=8 does not divide field/"),
        ({"tensor": 2, "fsdp": 2}, "shard_map", "hft is split over mesh.tensor alone"),
        ({"tensor": 2}, "pmap", "parallel=shard_map"),
    ],
)
def test_meshes_that_do_not_fit_get_one_line(mesh, parallel, says):
    config = complete_config(
        {
            "model": "hft",
            "model_config": SMALL | {"tensors": 100},
            "batch_size": 8,
            "parallel": parallel,
            "mesh": mesh,
        }
    )
    with pytest.raises(UserError, match=says):
        Placement(config)


def test_two_stages_learn_and_gradients_pass_through_both():
    """F-20: the compressor's columns move only by the predictor's gradient, and it helps."""
    changes = {"compressor": 32, "compressed": 8, "through_weights": True}
    before = small(**changes).compressor
    losses, state = run(steps=16, **changes)
    after = state.model.compressor
    moved = np.abs(np.asarray(after.columns, np.float32) - np.asarray(before.columns, np.float32))
    assert moved.max() > 1e-3 and np.isfinite(losses).all() and losses[-1] < losses[0] - 0.3


def test_every_array_is_float16_or_counts(learned):
    """F-10, F-21: fields, statistics and queue; the optimizer has no state at all."""
    model = small(compressor=16)
    wide = {"queue/loss"}
    for name, leaf in flatten(model).items():
        integer = jnp.issubdtype(leaf.dtype, jnp.integer)
        assert integer or leaf.dtype == jnp.float16 or name in wide, f"{name} is {leaf.dtype}"
    _, state = learned
    assert state.opt_state == ()
    assert {str(x.dtype) for x in jax.tree.leaves(state.model.field)} == {"float16", "int32"}


def test_stochastic_rounding_learns_where_rounding_to_nearest_loses_most():
    """At updates of 1e-4 of log probabilities, where float16 has steps of 2e-3."""

    def losses(**changes):
        fixed = {"step": "fixed", "geometry_rate": 0.0, "relocate_every": 0}
        return np.array(run(steps=16, **fixed, **changes)[0])

    still = losses(rate=0.0)  # on the same batches
    gain = {
        storage: (still - losses(rate=0.001, storage=storage))[-6:].mean()
        for storage in ("float32", "float16", "float16_kahan", "float16_nearest")
    }
    assert abs(gain["float16"] / gain["float32"] - 1) < 0.2
    assert abs(gain["float16_kahan"] / gain["float32"] - 1) < 0.2  # what is read is rounded
    assert 0 < gain["float16_nearest"] < 0.5 * gain["float32"]


def test_dead_tensors_move_to_missed_contexts_and_help_there(learned):
    """F-15, F-28: the loss at the contexts falls, and the tensors answer them."""
    model = jax.device_get(learned[1].model)
    c, field = model.config, jax.tree.map(jnp.asarray, model.field)
    usage = field.usage.at[:8].set(0.0)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((16, 32)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    queue = Queue(x.astype(np.float16), rng.integers(0, 13, 16), np.linspace(9, 1, 16, dtype="f"))
    queue = jax.tree.map(jnp.asarray, queue)
    index, dead = dead_tensors(c.predictor, field.replace(usage=usage), 8, 0.05, 0.0)
    assert set(np.asarray(index).tolist()) == set(range(8)) and bool(dead.all())
    move = quick_jit(lambda f, q: relocate(c, f, q))
    after, rest, moved = move(field.replace(usage=usage), queue)
    assert int(moved) == 8
    assert not np.asarray(rest.loss)[:8].any() and np.asarray(rest.loss)[8:].all()

    @quick_jit
    def losses(field):
        return token_nll(predict(c.predictor, field, queue.x), queue.target)

    delta = np.asarray(losses(field)) - np.asarray(losses(after))
    assert (delta[:8] > 0.5).all() and np.abs(delta[8:]).mean() < 0.3
    find = quick_jit(lambda f, x: read(c.predictor, f, x, sparse=True).index)
    nearest = np.asarray(find(after, queue.x[:8]))[:, 0]
    assert set(nearest.tolist()) == set(range(8))


@quick_jit
def learn(model, batch):
    return jax.vmap(
        lambda b: model.local_update(model.initial_state(8), b, key=None, axis_name="data")[0],
        axis_name="data",
    )(batch)


def update(model, batch):
    """One update of a model on one device: the model after it."""
    return jax.tree.map(lambda x: x[0], learn(model, jax.tree.map(lambda x: x[None], batch)))


def taught_batches(count):
    """Batches with a teacher's vectors, of the last two tokens, and its distribution, of those."""
    rng = np.random.default_rng(3)
    table = rng.standard_normal((13, 13, 8)).astype(np.float32)
    table /= np.linalg.norm(table, axis=-1, keepdims=True)
    head = 3 * rng.standard_normal((8, 13)).astype(np.float32)
    for batch in batches(count):
        tokens = batch["inputs"]
        hidden = table[np.pad(tokens, ((0, 0), (1, 0)))[:, :-1], tokens]
        yield batch | {"hidden": hidden, "teacher": jax.nn.softmax(hidden @ head)}


@pytest.mark.parametrize("learns", ["hidden", "both"])
def test_stage_one_learns_the_teachers_vectors_and_stage_two_its_distribution(learns):
    model = small(
        segments=("tokens", "hidden"),
        hidden_size=8,
        compressor=64,
        compressed=8,
        compressor_rate=0.5,
        compressor_learns=learns,
    )
    read = quick_jit(lambda m, b: m(m.initial_state(8), b["inputs"], b["reset"], None, b))
    scores = []
    for number, batch in enumerate(taught_batches(24)):
        if number in (0, 23):
            _, out = read(model, batch)
            wanted = stage_one_target(model.config, batch["hidden"]).reshape(-1, 8)
            given = out.inputs[:, 32:]
            norms = jnp.linalg.norm(wanted, axis=1) * jnp.linalg.norm(given, axis=1)
            loss = -(batch["teacher"] * jax.nn.log_softmax(out.logits)).sum(-1).mean()
            scores.append((float(((wanted * given).sum(1) / norms).mean()), float(loss)))
        model = update(model, batch)
        if number == 0:  # all start at the teacher's distribution, not at the targets'
            mean = np.average(
                batch["teacher"], (0, 1), np.repeat(batch["weights"][..., None], 13, 2)
            )
            np.testing.assert_allclose(np.exp(model.field.columns[-1, 0]), mean, rtol=0.03)
    assert abs(scores[0][0]) < 0.2 and scores[1][0] > 0.8
    assert scores[1][1] < scores[0][1] - 0.3


def test_stage_one_needs_a_teacher_to_learn_its_vectors():
    with pytest.raises(UserError, match="needs the segment 'hidden'"):
        jaxmodels.make_config("hft", compressor=8, compressor_learns="both")


def test_rows_that_grow_and_padding_leave_no_tensor_random():
    """A curriculum lengthens rows while tensors are being put at contexts."""
    model = small(geometry_rate=0.0, relocate_every=0)
    seeded = []
    for batch, time in zip(batches(3), (4, 8, 16), strict=True):
        batch = {name: x[:, :time] for name, x in batch.items()}
        batch["weights"] = np.where(np.arange(time) < time - 1, batch["weights"], 0.0)
        before = model.field
        model = update(model, batch)
        same = np.asarray(model.field.offset == before.offset)
        start, end = (seeded or [0])[-1], int(model.seeded[...])
        assert same[:start].all() and not same[start:end].any() and same[end:].all()
        seeded.append(end)
    assert seeded == [24, 80, 128]  # the last position of each row is padding


def test_seeding_does_not_begin_again():
    model = small(geometry_rate=0.0, relocate_every=0)
    model.field = nnx.data(model.field.replace(updates=jnp.int32(2**24)))
    model.seeded[...] = jnp.int32(128)
    after = update(model, batches(1)[0]).field
    np.testing.assert_array_equal(after.normal, model.field.normal)
    assert np.asarray(after.columns != model.field.columns).any()


def test_a_stride_beyond_the_row_seeds_its_first_position():
    model = small(seed_stride=64, geometry_rate=0.0)
    batch = {name: x[:, :4] for name, x in batches(1)[0].items()}
    after = update(model, batch).field
    assert np.flatnonzero(after.offset != model.field.offset).tolist() == list(range(8))


def test_k_means_puts_tensors_at_the_means_of_clusters():
    """F-13: of a batch's contexts, by direction; padding takes no part."""
    model = small(seeding="k-means", seed_stride=4, geometry_rate=0.0, relocate_every=0)
    batch = batches(1)[0]
    batch["weights"][:, -2:] = 0.0
    field = (after := update(model, batch)).field
    count = int(after.seeded[...])
    assert 24 <= count <= 32  # 128 contexts in 32 clusters, some of them empty
    same = np.asarray(field.offset == model.field.offset)
    assert not same[:count].any() and same[count:].all()
    x = np.asarray(model.features(model.initial_state(8), batch["inputs"], batch["reset"])[1])
    x = x[batch["weights"] > 0]
    centres = -np.asarray(field.offset, "f")[:count, None] / 0.6 * field.normal[:count]
    labels = (x @ np.asarray(field.normal[:count], "f").T).argmax(1)
    means = np.stack([x[labels == k].mean(0) for k in range(count)])
    off = np.linalg.norm(means - centres, axis=1)
    assert np.median(off) < 2e-3 and (off < 2e-3).mean() > 0.9  # float16; all but settled
    assert np.linalg.norm(means, axis=1).mean() < 0.95 * np.linalg.norm(x, axis=1).mean()


def test_clusters_do_not_depend_on_the_number_of_devices():
    c = small(seeding="k-means", seed_stride=4).config
    x = jax.random.normal(jax.random.key(0), (32, 8))
    weights = (jnp.arange(32) % 5 > 0).astype(jnp.float32)

    def of(devices):
        def own(x, weights):
            return _places(c, x, weights, (4 // devices, 8), "data")

        parts = (part.reshape(devices, -1, *part.shape[1:]) for part in (x, weights))
        return jax.vmap(own, axis_name="data")(*parts)

    centres, counts = of(1)
    assert centres.shape == (1, 8, 8) and float(counts.sum()) == float(weights.sum())
    for got, want in zip(of(2), (centres, counts), strict=True):
        np.testing.assert_allclose(got, jnp.broadcast_to(want, got.shape), rtol=1e-5, atol=1e-6)


def test_the_queue_keeps_the_highest_losses():
    one = Queue(jnp.zeros((3, 2)), jnp.array([1, 2, 3]), jnp.array([5.0, 3.0, 0.0]))
    two = Queue(jnp.ones((3, 2)), jnp.array([4, 5, 6]), jnp.array([4.0, 1.0, 9.0]))
    got = push(one, two)
    np.testing.assert_array_equal(got.target, [6, 1, 4])
    np.testing.assert_array_equal(got.loss, [9, 5, 4])
    np.testing.assert_array_equal(got.x[:, 0], [1, 0, 1])


def test_a_budget_holds_so_many_tensors():
    assert 2**33 // field_bytes(4096, 4096) == 262_144
    assert 2**33 // field_bytes(4096, 4096, storage="float16_kahan") == 131_072
    for storage in ("float16", "float16_kahan", "float32"):
        field = random_field(FieldConfig(64, 500, tensors=8, storage=storage), jax.random.key(0))
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(field))
        assert 1.0 < held / field_bytes(64, 500, 8, storage) < 1.02


def test_settings_of_an_optimizer_are_refused():
    with pytest.raises(UserError, match="learns without an optimizer"):
        config = complete_config(
            {"model": "hft", "model_config": SMALL, "optimizer": {"ema_decay": 0.99}}
        )
        Placement(config, jax.devices()[:1]).fresh_state()


def test_a_vocabulary_unlike_the_tokenizer_is_refused():
    config = complete_config({"model": "hft", "model_config": {"vocab_size": 256}})
    with pytest.raises(UserError, match="256, but the 'byte' tokenizer has 4097 tokens"):
        resolve_vocab(config, 4097)
