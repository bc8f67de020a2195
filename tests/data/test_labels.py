"""Relational labels of text: sentences checked by hand, causality, and their place in batches."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.data import ByteTokenizer, Document, RelationLabeller, make_stream, read_lexicon
from jaxmodels.data.labels.relations import ROLES
from jaxmodels.errors import UserError

MANY = 1_000_003  # so many classes that words do not collide
CAUSAL = RelationLabeller(slots=3, num_classes=MANY)


def label_class(labeller, word):
    """The class of a word, by the hash of its first 24 bytes in plain integers."""
    value = 14695981039346656037
    for byte in word.lower().encode()[:24]:
        value = (value + byte) * 1099511628211 % 2**64
    return (value ^ (value >> 29)) % labeller.num_classes


@pytest.fixture(scope="module")
def labeller():
    return RelationLabeller(slots=3, num_classes=MANY)


def labels_of(labeller, text):
    """The labels of one document, (length, slots, roles)."""
    tokens = ByteTokenizer().encode(text)
    everywhere = np.arange(len(tokens))
    index = labeller.index(tokens, np.zeros(1, np.int64))
    return labeller.lookup(index, everywhere, np.zeros_like(everywhere))["relation_labels"]


def labels_at(labeller, text, at):
    """Words of all slots at byte `at`: a list of {role: word}."""
    names = {label_class(labeller, w): w for w in VOCABULARY}
    out = []
    for slot in labels_of(labeller, text)[at]:
        found = {ROLES[k]: names[c] for k, c in enumerate(slot) if c >= 0}
        if found:
            out.append(found)
    return out


VOCABULARY = """dog chase cat garden we want protect people they know it union build bridge who lead
nation increase show report river i see cross stream café write king law""".split()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "The big dog chased a black cat in the old garden.",
            [{"subject": "dog", "verb": "chase", "object": "cat", "oblique": "garden"}],
        ),
        (
            "We want to protect our people, and they know it.",
            [
                {"subject": "we", "verb": "want"},
                {"subject": "we", "verb": "protect", "object": "people"},
                {"subject": "they", "verb": "know", "object": "it"},
            ],
        ),
        ("The increase of the report shows the river.", [{"verb": "show", "object": "river"}]),
        ("I saw, the river.", [{"subject": "i", "verb": "see"}]),
        ("Of the Union.", []),
        ("The king's dog wrote café law.", [{"subject": "dog", "verb": "write", "object": "law"}]),
    ],
)
def test_sentences_by_hand(labeller, text, expected):
    got = labels_at(labeller, text, len(text.encode()) - 1)
    for want, have in zip(expected, got, strict=True):
        assert want.items() <= have.items()
        if "object" not in want:
            assert "object" not in have


def test_labels_hold_from_the_complete_word_to_the_end_of_the_sentence(labeller):
    text = "The dog chased a cat now. We see it."
    labels = labels_of(labeller, text)
    verb = label_class(labeller, "chase")
    seen = np.flatnonzero(labels[:, 0, 1] == verb)
    assert seen[0] == text.index("chased") + len("chased")  # the space after it
    assert seen[-1] == text.index(".")  # gone with the white space after the full stop
    cat = np.flatnonzero(labels[:, 0, 2] == label_class(labeller, "cat"))
    assert cat[0] == text.index("now") + 3  # "cat" is the end of its run once "now" has been read
    again = np.flatnonzero(labels[:, 0, 1] == label_class(labeller, "see"))
    assert again[0] == text.index("see") + 3


PARTS = "the dog|chased|a cat|we|want|to|see|of|it|king's|it'|'|-|. |! |, |3.5|é|“|Union|build|'s|."
TEXTS = st.lists(st.sampled_from([*PARTS.split("|"), "\n", "\n\n", "to protect"]), max_size=14)


@given(parts=TEXTS, cut=st.integers(0, 60), other=TEXTS, glue=st.sampled_from([" ", ""]))
@settings(deadline=None, max_examples=300)
def test_labels_do_not_depend_on_later_text(parts, cut, other, glue):
    labeller = CAUSAL
    text = glue.join(parts).encode()
    prefix = text[:cut]
    changed = prefix + glue.join(other).encode()
    n = len(prefix)
    assert (labels_of(labeller, text)[:n] == labels_of(labeller, changed)[:n]).all()
    assert (labels_of(labeller, text)[:n] == labels_of(labeller, prefix)).all()


@pytest.mark.parametrize("end", ["it's", "it' s", "it'", "its", "it. ", "it3"])
def test_an_apostrophe_ends_no_word_before_the_next_byte(end):
    prefix = "We see it"
    undecided = labels_of(CAUSAL, prefix + "'x")[: len(prefix) + 1]
    labels = labels_of(CAUSAL, prefix + end[2:])
    n = len(prefix) + (end[2:3] == "'")
    assert (labels[:n] == undecided[:n]).all()
    ended = labels[len(prefix) :, 0, 2] == label_class(CAUSAL, "it")
    assert ended.any() == (end in ("it' s", "it. "))


@given(st.binary(max_size=80), st.binary(max_size=20))
@settings(deadline=None, max_examples=200)
def test_labels_of_arbitrary_bytes_are_causal(data, more):
    labeller = CAUSAL
    assert (labels_of(labeller, data) == labels_of(labeller, data + more)[: len(data)]).all()


def test_without_carried_state_labels_depend_on_the_batch_alone(labeller):
    """tracks without a carried state: none for a sentence that began in the batch before."""
    document = Document("d", np.frombuffer(b"The dog sees a cat. " * 12, np.uint8))
    missing = 0
    for carried in (True, False):
        stream = make_stream(
            [document], batch_size=2, seq_len=24, seed=0, labels=labeller, carry_state=carried
        )
        for step, batch in zip(range(5), stream, strict=False):
            labels = (batch["relation_labels"] >= 0).any((2, 3))
            # A segment of 24 sees one sentence of 20 begin, with the blank before its first word.
            begins = np.array([row.tolist().index(ord("T")) for row in batch["inputs"]])
            before = np.arange(24)[None] < begins[:, None] - 1
            if carried and step:
                missing += (labels & before).sum()
            else:
                assert not (labels & before).any()
        assert (labels & ~before).any()
    assert missing > 0


def test_labels_do_not_depend_on_other_documents(labeller):
    texts = [b"The dog chased", b" a cat. We see", b"it now. They know it."]
    tokens = np.frombuffer(b"".join(texts), np.uint8)
    starts = np.cumsum([0, *map(len, texts)])[:-1]
    at = np.arange(len(tokens))
    since = np.repeat(starts, [len(t) for t in texts])
    joined = labeller.lookup(labeller.index(tokens, starts), at, since)["relation_labels"]
    assert (joined == np.concatenate([labels_of(labeller, t) for t in texts])).all()


def test_streamed_labels_cover_only_what_the_state_has_read(labeller):
    text = "The dog chased a cat now. We see it in the garden. They know it well. " * 30
    document = Document("d", ByteTokenizer().encode(text))
    truth = labels_of(labeller, text)
    sizes = {"batch_size": 2, "seq_len": 40, "seed": 1, "labels": labeller}
    for mode in ("tracks", "windows", "packed"):
        it = iter(make_stream([document], mode=mode, **sizes))
        held, right, unknown = 0, 0, 0
        for step in range(20):
            batch = next(it)
            got = batch["relation_labels"]
            assert got.shape == (2, 40, 3, 4) and got.dtype == np.int32
            held += (got >= 0).sum()
            for row, tokens in enumerate(batch["inputs"]):
                place = text.find(
                    bytes(tokens[batch["weights"][row] > 0].astype(np.uint8)).decode()
                )
                if place >= 0:
                    n = int((batch["weights"][row] > 0).sum())
                    want = truth[place : place + n]
                    have = got[row, :n]
                    assert ((have == want) | (have == -1)).all()
                    right += (have == want).all()
                if mode == "windows" or (mode == "tracks" and step == 0):
                    # Begins inside a sentence: nothing is known until the next one.
                    first = bytes(tokens.astype(np.uint8)).find(b". ")
                    inside = place > 0 and text[place - 1] != "."
                    if inside and not batch["reset"][row, 1:].any():
                        assert (got[row, : first + 1] == -1).all()
                        unknown += (truth[place : place + first + 1] >= 0).any()
        assert held > 0 and (mode != "tracks" or right > 10) and (mode == "packed" or unknown)


def test_classes_are_below_num_classes():
    small = RelationLabeller(slots=2, roles=6, num_classes=5)
    labels = labels_of(small, "The dog chased a cat in the garden. " * 5)
    assert labels.shape[1:] == (2, 6) and labels.min() == -1 and labels.max() < 5
    assert (labels[:, :, 4:] == -1).all()
    assert labels_of(RelationLabeller(roles=2), "We see it. ").shape == (11, 16, 2)
    pinned = RelationLabeller(num_classes=256)  # files keep the classes
    chase = labels_of(pinned, "The dog chased a cat. ")[len("The dog chased"), 0, 1]
    assert chase == label_class(pinned, "chase") == 54


def test_custom_lexicon(tmp_path):
    (tmp_path / "verb_own.txt").write_text("zorps\n")
    own = RelationLabeller(num_classes=MANY, lexicon=read_lexicon(tmp_path))
    labels = labels_of(own, "The dog zorps cats. The dog chased it. ")
    assert set(np.unique(labels[:, :, 1])) == {-1, label_class(own, "zorps")}


def test_labels_require_byte_tokens(labeller):
    document = Document("d", np.arange(50, dtype=np.int32))
    with pytest.raises(UserError, match="byte"):
        make_stream([document], batch_size=1, seq_len=4, seed=0, labels=labeller)
