"""Streams: what is covered, what continues, what never crosses a document, what resumes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.data import (
    Document,
    eval_stream,
    make_stream,
    num_target_bytes,
    num_targets,
    split_documents,
    subsample,
)
from jaxmodels.data.text.packing import pack
from jaxmodels.errors import UserError

MODES = ["tracks", "windows", "packed"]


def documents(lengths):
    """Documents whose tokens are all different, so that a token tells its place."""
    ends = np.cumsum(lengths)
    return [
        Document(f"d{i}", np.arange(end - n, end, dtype=np.int32), labels={"place": np.arange(n)})
        for i, (n, end) in enumerate(zip(lengths, ends, strict=True))
    ]


def batches(stream, count):
    it = iter(stream)
    return [next(it) for _ in range(count)]


def joined(stream):
    """A finite stream, batches side by side in time."""
    parts = list(stream)
    return {name: np.concatenate([b[name] for b in parts], axis=1) for name in parts[0]}


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@pytest.mark.parametrize("mode", MODES)
@given(
    lengths=LENGTHS, seed=st.integers(-5, 2**40), batch=st.integers(1, 4), width=st.integers(1, 9)
)
@settings(deadline=None, max_examples=40)
def test_a_target_is_the_next_token_of_the_same_document(mode, lengths, seed, batch, width):
    docs = documents(lengths)
    try:
        stream = make_stream(
            docs, batch_size=batch, seq_len=width, seed=seed, mode=mode, prefetch=0
        )
    except UserError:
        return
    owner = np.repeat(np.arange(len(lengths)), lengths)
    for b in batches(stream, 5):
        assert {n: (v.dtype.name, v.shape) for n, v in b.items()} == {
            "inputs": ("int32", (batch, width)),
            "targets": ("int32", (batch, width)),
            "weights": ("float32", (batch, width)),
            "reset": ("bool", (batch, width)),
            "place": ("int32", (batch, width)),
        }
        on = b["weights"] == 1
        assert (on | (b["weights"] == 0)).all()
        assert (b["targets"][on] == b["inputs"][on] + 1).all()
        assert (owner[b["targets"][on]] == owner[b["inputs"][on]]).all()
        assert (b["targets"][~on] == 0).all()
        # The first input of a document always resets; labels stand at their input.
        assert b["reset"][on & (b["place"] == 0)].all()
        starts = np.cumsum([0, *lengths])[:-1]
        assert (b["place"][on] == b["inputs"][on] - starts[owner[b["inputs"][on]]]).all()
        if mode != "tracks":
            assert (b["reset"][:, 0] | ~on.any(axis=1)).all()


def test_tracks_continue_from_batch_to_batch_and_restart_each_epoch():
    docs = documents([30, 1, 50, 19, 7, 61])
    b, t = 3, 5
    per_epoch = sum(map(len, docs)) // (b * t)
    owner = np.repeat(np.arange(len(docs)), list(map(len, docs)))
    epochs = []
    all_batches = batches(make_stream(docs, batch_size=b, seq_len=t, seed=4), 3 * per_epoch)
    for e in range(3):
        parts = all_batches[e * per_epoch : (e + 1) * per_epoch]
        whole = {n: np.concatenate([p[n] for p in parts], axis=1) for n in parts[0]}
        epochs.append(whole["inputs"])
        # Along a track the next input is the target, or a document ended and the next resets.
        on = whole["weights"][:, :-1] == 1
        assert (whole["targets"][:, :-1] == whole["inputs"][:, 1:])[on].all()
        assert whole["reset"][:, 1:][~on].all()
        assert (whole["reset"][:, 0]).all()
        inside = whole["reset"][:, 1:] & on
        assert not inside.any()
        # Every token at most once an epoch, and all but fewer than b * t of them.
        assert len(np.unique(whole["inputs"])) == whole["inputs"].size
        assert sum(map(len, docs)) - whole["inputs"].size < b * t
        assert (owner[whole["inputs"]] >= 0).all()
    assert not (epochs[0] == epochs[1]).all() and not (epochs[1] == epochs[2]).all()


def test_a_single_document_is_cut_differently_each_epoch():
    docs = documents([103])
    first = [
        b["inputs"][0, 0] for b in batches(make_stream(docs, batch_size=2, seq_len=50, seed=0), 6)
    ]
    assert len(set(first)) > 3


@given(lengths=LENGTHS, seed=st.integers(0, 9), width=st.integers(1, 12))
@settings(deadline=None, max_examples=60)
def test_packing_gives_every_target_once_per_epoch(lengths, seed, width):
    docs = documents(lengths)
    if num_targets(docs) == 0:
        return
    stream = make_stream(docs, batch_size=1, seq_len=width, seed=seed, mode="packed", prefetch=0)
    starts = np.cumsum([0, *lengths])[:-1]
    rows = len(pack(starts, np.array(lengths), width, seed)[0])
    first, second = batches(stream, rows), batches(stream, 2 * rows)[rows:]
    expected = np.concatenate(
        [np.arange(s + 1, s + n) for s, n in zip(starts, lengths, strict=True)]
    )
    for epoch in (first, second):
        got = np.concatenate([b["targets"][b["weights"] == 1] for b in epoch])
        assert (np.sort(got) == expected).all()
        for b in epoch:
            # Within a row a piece is contiguous; wherever it is not, there is a reset.
            broken = np.diff(b["inputs"][0]) != 1
            assert b["reset"][0, 1:][broken & (b["weights"][0, 1:] == 1)].all()
            assert (b["weights"][0] == 1).sum() > 0
    # No needless rows: two rows could never be merged.
    loads = sorted(int((b["weights"] == 1).sum()) for b in first)
    assert rows == 1 or loads[0] + loads[1] > width


def test_packed_documents_stay_whole_where_they_fit():
    docs = documents([9, 5, 5, 30])
    epoch = batches(make_stream(docs, batch_size=1, seq_len=8, seed=1, mode="packed"), 6)
    pieces = sum(int((b["reset"] & (b["weights"] == 1)).sum()) for b in epoch)
    assert pieces == 1 + 1 + 1 + 4  # 8, 4, 4 and 29 = 8 + 8 + 8 + 5 pairs
    assert len(epoch) == 6 and sum(b["weights"].sum() for b in epoch) == 8 + 4 + 4 + 29


def test_windows_cover_each_token_once_per_epoch():
    docs = documents([40, 60, 20])
    stream = make_stream(docs, batch_size=4, seq_len=10, seed=3, mode="windows")
    for epoch in range(3):
        got = np.concatenate([b["inputs"].ravel() for b in batches(stream, 3 * (epoch + 1))[-3:]])
        assert (np.sort(got) == np.arange(120)).all()


@pytest.mark.parametrize("whole", [False, True])
@given(lengths=LENGTHS, batch=st.integers(1, 6), width=st.integers(1, 11))
@settings(deadline=None, max_examples=60)
def test_evaluation_covers_every_target_exactly_once(whole, lengths, batch, width):
    docs = documents(lengths)
    sizes = {"batch_size": batch, "seq_len": width, "whole_documents": whole, "prefetch": 0}
    if num_targets(docs) == 0:
        with pytest.raises(UserError, match="too short"):
            eval_stream(docs, **sizes)
        return
    got = joined(eval_stream(docs, **sizes))
    on = got["weights"] == 1
    assert got["weights"].sum() == num_targets(docs) == num_target_bytes(docs)
    starts = np.cumsum([0, *lengths])[:-1]
    expected = np.concatenate(
        [np.arange(s + 1, s + n) for s, n in zip(starts, lengths, strict=True)]
    )
    assert (np.sort(got["targets"][on]) == expected).all()
    assert (got["targets"][on] == got["inputs"][on] + 1).all()
    # Along a row an input that does not follow its predecessor resets the state.
    follows = np.diff(got["inputs"], axis=1) == 1
    assert got["reset"][:, 1:][on[:, 1:] & ~follows].all()
    assert got["reset"][:, 0][on[:, 0]].all()
    if whole:
        assert (got["reset"] == (got["place"] == 0)).all()


@pytest.mark.parametrize("mode", [*MODES, "eval", "eval_whole"])
def test_concatenated_host_batches_equal_the_batch_of_one_host(mode):
    docs = documents([33, 8, 20, 41, 9])
    sizes = {"batch_size": 6, "seq_len": 4}

    def stream(**hosts):
        if mode in MODES:
            return make_stream(docs, seed=7, mode=mode, **sizes, **hosts)
        return eval_stream(docs, whole_documents=mode == "eval_whole", **sizes, **hosts)

    alone = batches(stream(), 4)
    for count in (2, 3):
        parts = [batches(stream(host_index=h, host_count=count), 4) for h in range(count)]
        for step in range(4):
            for name, values in alone[step].items():
                assert (np.concatenate([p[step][name] for p in parts]) == values).all()


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("mode", MODES)
def test_resuming_gives_the_identical_next_batches(mode, prefetch):
    docs = documents([33, 8, 20, 41, 9])

    def stream(seed=7):
        return make_stream(docs, batch_size=2, seq_len=8, seed=seed, mode=mode, prefetch=prefetch)

    it = iter(stream())
    for _ in range(5):
        next(it)
    state = it.get_state()
    assert state == {"next_index": 5}
    expected = [next(it) for _ in range(20)]
    again = iter(stream())
    again.set_state(state)
    for want in expected:
        got = next(again)
        assert all((got[name] == want[name]).all() for name in want)
    other = batches(stream(seed=8), 25)[5:]
    assert any((a["inputs"] != b["inputs"]).any() for a, b in zip(other, expected, strict=True))


def test_a_grain_checkpoint_restores_the_position(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    docs = documents([90, 70])
    it = iter(make_stream(docs, batch_size=2, seq_len=8, seed=1))
    for _ in range(3):
        next(it)
    with ocp.CheckpointManager(tmp_path / "c") as manager:
        manager.save(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(it)))
        want = next(it)
        fresh = iter(make_stream(docs, batch_size=2, seq_len=8, seed=1))
        manager.restore(3, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(fresh)))
    assert (next(fresh)["inputs"] == want["inputs"]).all()


_PROGRAM = """
import hashlib, numpy as np
from jaxmodels.data import Document, make_stream
docs = [Document("d", np.arange(n, dtype=np.int32) + n) for n in (33, 8, 20, 41, 9)]
digest = hashlib.sha256()
for mode in ("tracks", "windows", "packed"):
    it = iter(make_stream(docs, batch_size=2, seq_len=8, seed=-3, mode=mode))
    for _ in range(12):
        batch = next(it)
        for name in sorted(batch):
            digest.update(batch[name].tobytes())
print(digest.hexdigest())
"""


def test_two_processes_make_the_same_batches(capsys):
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONHASHSEED": "5", "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _PROGRAM]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    exec(_PROGRAM, {})
    assert capsys.readouterr().out == other.stdout
    assert len(other.stdout.strip()) == hashlib.sha256().digest_size * 2


def test_shuffles_are_pinned():
    """Philox words sorted: must not change with NumPy's version, or old runs could not resume."""
    docs = documents([3, 4, 5, 6])
    batch = next(iter(make_stream(docs, batch_size=1, seq_len=18, seed=0)))
    assert batch["inputs"][0].tolist() == [
        1,
        2,
        12,
        13,
        14,
        15,
        16,
        17,
        7,
        8,
        9,
        10,
        11,
        3,
        4,
        5,
        6,
        0,
    ]


@pytest.mark.parametrize("mode", MODES)
def test_too_short_or_impossible_sizes_are_user_errors(mode):
    docs = documents([1])
    with pytest.raises(UserError, match=r"too short: 1 tokens"):
        make_stream(docs, batch_size=2, seq_len=2, seed=0, mode=mode)
    with pytest.raises(UserError, match="empty"):
        make_stream([], batch_size=2, seq_len=2, seed=0, mode=mode)
    with pytest.raises(UserError, match="multiple"):
        make_stream(documents([99]), batch_size=3, seq_len=2, seed=0, mode=mode, host_count=2)
    with pytest.raises(UserError, match="positive"):
        make_stream(documents([99]), batch_size=3, seq_len=0, seed=0, mode=mode)
    with pytest.raises(UserError, match="unknown mode 'trakcs'"):
        make_stream(docs, batch_size=2, seq_len=2, seed=0, mode="trakcs")


def test_subsample_keeps_every_document_and_its_labels():
    docs = documents([100, 10, 50])
    some = subsample(docs, 32)
    assert [len(d) for d in some] == [20, 2, 10]
    assert some[2].tokens.tolist() == list(range(110, 120))
    assert some[2].labels["place"].tolist() == list(range(10))
    assert subsample(docs, None) == subsample(docs, 160) == tuple(docs)


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="3 rows for 2 tokens"):
        Document("d", np.zeros(2, np.uint8), labels={"x": np.zeros(3, np.int32)})


def test_split_documents_cuts_in_order_and_drop_only_a_last_single_token():
    documents = (Document("a", np.arange(7)), Document("b", np.arange(3)))
    cut = split_documents(documents, 3)
    assert [d.tokens.tolist() for d in cut] == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]
    # the seventh token of "a" would be a piece without a target, and is left out
    cut = split_documents(documents, 4)
    assert [d.tokens.tolist() for d in cut] == [[0, 1, 2, 3], [4, 5, 6], [0, 1, 2]]
    assert split_documents(documents, None) == documents
