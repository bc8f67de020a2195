"""Where tensors are put: the right cluster by mean direction, not by the source's component."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.cells.hypertensor import FieldConfig, predict, random_field, read
from jaxmodels.cells.hypertensor.relocation import dead_tensors, k_means, plant
from jaxmodels.errors import UserError

CLUSTERS, DIMENSION = 64, 256


def config(kind="euclidean", **changes):
    fields = {"tensors": CLUSTERS, "top_k": 1, "distance": kind, "storage": "float32"}
    return FieldConfig(DIMENSION, CLUSTERS, **(fields | changes))


def samples(per_cluster=16, cosine=0.9, seed=0):
    """Inputs at a cosine of 0.9 to their cluster's centre, and their labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, DIMENSION))
    labels = np.repeat(np.arange(CLUSTERS), per_cluster)
    noise = rng.standard_normal((len(labels), DIMENSION))
    unit = centres[labels] / np.linalg.norm(centres[labels], axis=1, keepdims=True)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    x = cosine * unit + np.sqrt(1 - cosine**2) * noise
    return (16 * x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def right(c, field, x, labels):
    return float((np.asarray(read(c, field, x, sparse=True).index)[:, 0] == labels).mean())


def test_mean_direction_finds_the_cluster_and_the_source_seeding_does_not():
    x, labels = samples()
    means = np.stack([x[labels == k].mean(0) for k in range(CLUSTERS)])
    every = jnp.arange(CLUSTERS)
    ours = plant(
        config(),
        random_field(config(), jax.random.key(0)),
        every,
        means,
        np.eye(CLUSTERS),
        every >= 0,
    )
    # The source: n = first principal component of the cluster, delta = -n . mean.
    firsts = np.stack(
        [
            np.linalg.svd(x[labels == k] - means[k], full_matrices=False)[2][0]
            for k in range(CLUSTERS)
        ]
    ).astype(np.float32)
    theirs = ours.replace(normal=firsts, offset=-(firsts * means).sum(1))
    new, new_labels = samples(seed=1)
    assert right(config(), ours, new, new_labels) > 0.99
    for kind in ("planar", "euclidean"):
        assert right(config(kind), theirs, new, new_labels) < 0.1  # chance is 0.016


def test_k_means_recovers_clusters():
    x, labels = samples()
    centres, found = k_means(jnp.asarray(x), CLUSTERS, jax.random.key(0))
    together = np.asarray(found)[:, None] == np.asarray(found)[None]
    truth = labels[:, None] == labels[None]
    assert (together & truth).sum() / truth.sum() > 0.8
    np.testing.assert_allclose(
        centres[found[0]], x[np.asarray(found == found[0])].mean(0), atol=1e-3
    )
    with pytest.raises(UserError, match="as many samples, got 16"):
        k_means(jnp.asarray(x[:16]), 17, jax.random.key(0))


def test_a_planted_tensor_inherits_no_rest_of_a_compensated_sum():
    c = config(tensors=32, storage="float16_kahan")
    field = random_field(c, jax.random.key(0))
    field = field.replace(rest=jax.tree.map(jnp.ones_like, field.rest))
    keep = jnp.arange(8) < 6
    after = plant(c, field, jnp.arange(8), samples(per_cluster=1)[0][:8], jnp.ones((8, 64)), keep)
    for rest in after.rest.values():
        assert not np.asarray(rest[:6]).any() and np.asarray(rest[6:] == 1).all()


def test_a_planted_tensor_answers_its_context_and_keep_leaves_others():
    c = config(tensors=32, top_k=4)
    field = random_field(c, jax.random.key(0))
    x = samples(per_cluster=1)[0]
    index, outputs = jnp.arange(8), 3 * jnp.eye(CLUSTERS)[:8]
    keep = jnp.arange(8) < 6
    after = plant(c, field, index, x[:8], outputs, keep)
    np.testing.assert_allclose(predict(c, after, x[:6]), outputs[:6], atol=1e-3)
    for name in ("normal", "columns", "usage"):
        np.testing.assert_array_equal(getattr(after, name)[6:], getattr(field, name)[6:])
    unit = np.linalg.norm(np.asarray(after.normal[:6]), axis=1)
    np.testing.assert_allclose(unit, 1.0, atol=1e-5)
    assert (np.asarray(after.bands)[:, 0] < 0).all() and (np.asarray(after.bands)[:, 1] > 0).all()


def test_dead_means_little_used_or_little_moved():
    c = config(tensors=8)
    field = random_field(c, jax.random.key(0))
    field = field.replace(
        usage=jnp.array([0.0, 1, 1, 1, 1, 1, 1, 1]), movement=jnp.array([1.0, 0, 1, 1, 1, 1, 1, 1])
    )
    index, dead = dead_tensors(c, field, 2, 0.1, 0.1)  # among all, not among the least used
    assert set(np.asarray(index).tolist()) == {0, 1} and bool(dead.all())
    for usage, movement, found in ((0.1, 0.0, {0}), (0.0, 0.1, {1}), (0.0, 0.0, set())):
        index, dead = dead_tensors(c, field, 8, usage, movement)
        assert set(np.asarray(index)[np.asarray(dead)].tolist()) == found


def test_random_fields_have_the_source_scales():
    c = FieldConfig(64, 50, tensors=4000)
    field = random_field(c, jax.random.key(0))
    normal, columns, bands = (
        np.asarray(x, np.float64) for x in (field.normal, field.columns, field.bands)
    )
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1.0, atol=2e-3)
    assert abs(columns.std() - 0.05) < 1e-3 and abs(columns.mean()) < 1e-3
    assert abs(np.std(np.asarray(field.offset, np.float64)) - 0.5) < 0.03
    assert (
        (bands[:, 0] <= -0.0999).all()
        and (bands[:, 1] >= 0.0999).all()
        and np.abs(bands).max() <= 1
    )
    assert abs(np.corrcoef(columns[:, 0, 0], columns[:, 1, 0])[0, 1]) < 0.1
    assert {str(x.dtype) for x in jax.tree.leaves(field)} == {"float16", "int32"}
