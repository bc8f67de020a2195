"""Lengths that grow: exact positions, one compilation each, and a resumed run that is the same."""

import numpy as np
import pytest

from jaxmodels.data import Document, make_stream
from jaxmodels.errors import UserError
from tests.train.corpus import small_text
from tests.train.test_loop import changed, stop_at, train_run
from tests.train.toy import toy_config
from train.config import apply_overrides, from_json, to_json, validate_config
from train.io.log import read_metrics
from train.optim.build import make_schedule
from train.step import make_train_step
from train.tasks.lengths import Length, lengths_of

GROWING = ((0.0, 4), (0.25, 8), (0.5, 16))


def documents(sizes=(50, 61, 72, 35)):
    ends = np.cumsum(sizes)
    starts = ends - np.array(sizes)
    pairs = zip(starts, ends, strict=True)
    return [Document(str(a), np.arange(a, b, dtype=np.int32)) for a, b in pairs]


def batches(count, **fields):
    stream = iter(make_stream(documents(), batch_size=2, seed=3, prefetch=0, **fields))
    return [next(stream) for _ in range(count)]


def test_tracks_continue_across_lengths():
    """The tokens end to end are those of one-token segments, whatever the segments are."""
    lengths = [(0, 2), (5, 3), (9, 8), (14, 4)]
    grown = batches(60, seq_len=1, lengths=lengths)
    widths = [batch["inputs"].shape[1] for batch in grown]
    assert widths[:16] == [2] * 5 + [3] * 4 + [8] * 5 + [4] * 2
    total = sum(widths)
    epoch = 218 // 16 * 8  # steps per epoch of a track, in whole longest segments
    assert total > 2 * epoch
    single = batches(total, seq_len=1, lengths=[(0, 1), (10**6, 8)])
    for name in ("inputs", "targets", "weights", "reset"):
        np.testing.assert_array_equal(
            np.concatenate([batch[name] for batch in grown], 1),
            np.concatenate([batch[name] for batch in single], 1),
            err_msg=name,
        )
    resets = np.concatenate([batch["reset"] for batch in grown], 1)
    assert resets[:, [0, epoch, 2 * epoch]].all()  # at track starts, also inside a segment


def test_batches_are_randomly_accessible():
    stream = make_stream(documents(), batch_size=2, seq_len=1, seed=3, lengths=[(0, 2), (3, 8)])
    iterator = iter(stream)
    for _ in range(7):
        next(iterator)
    other = iter(stream)
    other.set_state(iterator.get_state())
    assert iterator.get_state()["next_index"] == 7
    np.testing.assert_array_equal(next(other)["inputs"], next(iterator)["inputs"])


def test_starts_and_factors():
    config = toy_config(steps=100, curriculum=GROWING)
    assert lengths_of(config) == (Length(0, 4, 1.0), Length(25, 8, 0.5), Length(50, 16, 0.25))
    written = toy_config(steps=100, curriculum=((0.0, 4, 1.0), (0.25, 8, 0.9)))
    assert lengths_of(written)[1] == Length(25, 8, 0.9)
    assert lengths_of(toy_config()) == (Length(0, 16, 1.0),)
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    rate = make_schedule(config)
    for step, factor in ((0, 1.0), (24, 1.0), (25, 0.5), (49, 0.5), (50, 0.25), (99, 0.25)):
        assert float(rate(step)) == pytest.approx(factor * config.optimizer.learning_rate), step
    assert from_json(to_json(config)).curriculum == GROWING
    apply_overrides(config, ["--config.curriculum=((0, 4), (0.5, 16, 0.7))"])
    assert lengths_of(config)[1] == Length(50, 16, 0.7)


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        (((0.1, 4),), "fractions must start at 0"),
        (((0.0, 4), (0.5, 8), (0.4, 16)), "ascend"),
        (((0.0, 4), (0.001, 8)), "ascend by >= 1 step"),
        (((0.0, 0),), "a length above 0"),
        (((0.0,),), "entries must be"),
        ((4, 8), "entries must be"),
        (((0.0, 4, -1.0),), "rate factor must be positive"),
    ],
)
def test_invalid_curricula_are_rejected(curriculum, message):
    with pytest.raises(UserError, match=message):
        validate_config(toy_config(curriculum=curriculum))
    with pytest.raises(UserError, match=r"set data.mode='tracks'"):
        validate_config(toy_config(curriculum=GROWING, data__mode="windows"))


def test_resumed_curriculum_is_bit_identical(tmp_path, monkeypatch):
    (tmp_path / "small.txt").write_text(small_text(600))
    config = toy_config(
        steps=16,
        batch_size=4,
        curriculum=((0.0, 4), (0.5, 16)),
        eval_every=8,
        checkpoint_every=5,
        log_every=1,
        data__paths=(str(tmp_path / "small.txt"),),
        data__eval_tokens=128,
    )
    traced = []

    def counted(*args):
        step = make_train_step(*args)

        def spy(state, batch):
            traced.append(batch["inputs"].shape[-1])
            return step(state, batch)

        return spy

    with monkeypatch.context() as patch:
        patch.setattr("train.devices.placement.make_train_step", counted)
        whole = train_run(config, tmp_path / "whole", devices=1)
    assert traced == [4, 16]  # one program per length
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        train_run(config, tmp_path / "half", devices=1)
    assert train_run(config, tmp_path / "half", devices=1, resume=True).digest == whole.digest
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "half")]
    assert lines[0] == lines[1]
    targets = {m["step"]: m["targets"] for m in read_metrics(tmp_path / "whole") if "targets" in m}
    assert max(targets[step] for step in range(1, 9)) <= 4 * 4
    assert all(4 * 12 < targets[step] <= 4 * 16 for step in range(9, 17))
    with pytest.raises(UserError, match="on which its curriculum or mixture depends"):
        train_run(changed(config, steps=48), tmp_path / "half", devices=1, resume=True)
