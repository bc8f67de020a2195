"""Weak relation labels for English text: subject, verb, object and oblique, found with a lexicon.

Predicate number s of a sentence has slot s (beyond the last slot: no label). Its roles are

    0 subject   the nearest argument word before the verb
    1 verb      a word of category "verb", unless it directly follows a determiner or a preposition
                other than "to"
    2 object    the last word of the first run of content words after the verb, if no preposition,
                verb or punctuation precedes that run
    3 oblique   the same after the first preposition that follows the verb without punctuation
                in between

A label is the class of the word's lemma: a 64-bit polynomial hash of its lower-case bytes modulo
`num_classes`.

**Causality.** The label at byte t is a function of bytes <= t. A word counts once the byte after it
is read; a run of content words ends when the next word or punctuation is complete. Labels hold
until the white space after the end of the sentence (`.`, `!`, `?`, or an empty line) and exist only
for sentences that the recurrent state has read from their beginning (`since`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxmodels.data.labels.lexicon import Lexicon, builtin_lexicon

ROLES = ("subject", "verb", "object", "oblique")
_MAX_WORD = 24  # bytes of a word that are hashed
_NEVER = np.iinfo(np.int64).max
_CONTENT, _VERB, _PRONOUN, _DETERMINER, _PREPOSITION, _CLOSED = range(6)
_CODES = {
    "noun": _CONTENT,
    "verb": _VERB,
    "pronoun": _PRONOUN,
    "determiner": _DETERMINER,
    "preposition": _PREPOSITION,
    "closed": _CLOSED,
}


@dataclass(frozen=True)
class RelationIndex:
    """All relations of a text.

    Attributes:
      sentences: (sentences,) int64, first position of each.
      first: (sentences + 1,) int64; sentence n has relations first[n] .. first[n + 1] - 1.
      classes: (relations, roles) int32.
      known: (relations, roles) int64, position from which the role is labelled; huge = never.
    """

    sentences: np.ndarray
    first: np.ndarray
    classes: np.ndarray
    known: np.ndarray


class RelationLabeller:
    """The source of the batch field `relation_labels`, int32 (rows, seq_len, slots, roles).

    Args:
      slots: S, predicates per sentence.
      roles: K; the first K of `ROLES` are labelled.
      num_classes: number of label classes; -1 = no label.
      lexicon: categories of words; None = the built-in lexicon.
    """

    def __init__(
        self,
        slots: int = 16,
        roles: int = 4,
        num_classes: int = 256,
        lexicon: Lexicon | None = None,
    ):
        if min(slots, roles, num_classes) < 1:
            raise ValueError(
                f"slots, roles, num_classes must be >= 1: {slots}, {roles}, {num_classes}"
            )
        self.slots, self.roles, self.num_classes = slots, roles, num_classes
        self._hashes, self._codes, self._lemmas = _tables(lexicon or builtin_lexicon())

    def lookup(
        self, index: RelationIndex, positions: np.ndarray, since: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return labels at positions (n,), for sentences that begin at `since` (n,) or later."""
        sentence = np.searchsorted(index.sentences, positions, side="right") - 1
        relation = index.first[sentence][:, None] + np.arange(self.slots)
        there = relation < index.first[sentence + 1][:, None]
        there &= (index.sentences[sentence] >= since)[:, None]
        at, slot = np.nonzero(there)
        relation = relation[at, slot]
        known = index.known[relation] <= positions[at][:, None]
        labels = np.full((len(positions), self.slots, self.roles), -1, np.int32)
        width = min(self.roles, len(ROLES))
        labels[at, slot, :width] = np.where(known, index.classes[relation], -1)[:, :width]
        return {"relation_labels": labels}

    def index(self, tokens: np.ndarray, starts: np.ndarray) -> RelationIndex:
        """Find all relations in concatenated documents: tokens (n,) uint8, starts (d,)."""
        words = _find_words(tokens, starts)
        code, lemma = self._classify(words)
        n = len(code)
        number = np.arange(n)
        noun = (code == _CONTENT) | (code == _PRONOUN)

        # Last word of the run of each content word, and the position from which it is known.
        continues = np.zeros(n, bool)
        continues[:-1] = (code[:-1] == _CONTENT) & (code[1:] == _CONTENT) & ~words.closed[:-1]
        run_end = _next(~continues, inclusive=True)
        closing = np.full(n, _NEVER)
        closing[:-1] = words.complete[1:]
        closing = np.where(words.closed, words.punctuation, closing)
        closing = np.where(code == _PRONOUN, words.complete, closing)

        next_noun, next_verb = _next(noun), _next(code == _VERB)
        next_preposition = _next(code == _PREPOSITION)
        # Running count of punctuation: words with equal counts have none in between.
        breaks = np.concatenate([[0], np.cumsum(words.closed)])

        def argument_after(anchor, stop):
            """Return the head of the first run after `anchor`, -1 if `stop` comes first."""
            head = np.where(anchor < n, next_noun[np.minimum(anchor, n - 1)], n)
            fits = (head < stop) & (head < n)
            head = np.minimum(head, n - 1)
            fits &= breaks[head] == breaks[np.minimum(anchor, n - 1)]
            return np.where(fits, run_end[head], -1)

        verbs = number[code == _VERB]
        subject = _previous(noun)[verbs]
        same = words.sentence[np.maximum(subject, 0)] == words.sentence[verbs]
        subject = np.where((subject >= 0) & same, subject, -1)
        stop = np.minimum(next_verb, next_preposition)[verbs]
        obj = argument_after(verbs, stop)
        preposition = next_preposition[verbs]
        reachable = (preposition < next_verb[verbs]) & (
            breaks[np.minimum(preposition, n)] == breaks[verbs]
        )
        preposition = np.where(reachable, preposition, n)
        after = np.append(np.minimum(next_verb, next_preposition), n)[preposition]
        oblique = argument_after(preposition, after)

        roles = np.stack([subject, verbs, obj, oblique], axis=1)
        known = np.append(closing, _NEVER)[roles]  # -1 picks the appended one
        known[:, 1] = words.complete[verbs]
        known[:, 0] = np.where(subject >= 0, words.complete[verbs], _NEVER)
        classes = np.append(lemma % np.uint64(self.num_classes), np.uint64(0))[roles]
        first = np.searchsorted(words.sentence[verbs], np.arange(len(words.sentences) + 1))
        return RelationIndex(words.sentences, first, classes.astype(np.int32), known)

    def _classify(self, words: _Words) -> tuple[np.ndarray, np.ndarray]:
        """Return (words,) category codes and lemma hashes; verbs in noun position are nouns."""
        at = np.minimum(np.searchsorted(self._hashes, words.hash), len(self._hashes) - 1)
        listed = self._hashes[at] == words.hash
        code = np.where(listed, self._codes[at], _CONTENT)
        code = np.where(words.possessive & ~listed, _DETERMINER, code)
        before = np.full(len(code), _CLOSED)
        before[1:] = np.where(words.closed[:-1], _CLOSED, code[:-1])
        is_to = np.zeros(len(code), bool)
        is_to[1:] = words.hash[:-1] == _hash_words(["to"])
        as_noun = (before == _DETERMINER) | ((before == _PREPOSITION) & ~is_to)
        code = np.where((code == _VERB) & as_noun, _CONTENT, code)
        return code, np.where(listed, self._lemmas[at], words.hash)


@dataclass(frozen=True)
class _Words:
    """The words of a text in reading order; arrays are (words,), `sentences` (sentences,).

    Attributes:
      hash: hash of the lower-case bytes.
      complete: position at which the word is known to have ended.
      closed: whether punctuation or the end of the sentence or document follows.
      punctuation: position of that punctuation.
      sentence: index of the sentence.
      possessive: whether the word ends in 's.
      sentences: first position of each sentence.
    """

    hash: np.ndarray
    complete: np.ndarray
    closed: np.ndarray
    punctuation: np.ndarray
    sentence: np.ndarray
    possessive: np.ndarray
    sentences: np.ndarray


def _find_words(tokens: np.ndarray, starts: np.ndarray) -> _Words:
    size = len(tokens)
    text = np.append(tokens, np.uint8(0))
    first = np.zeros(size + 1, bool)  # the first byte of a document, and the end
    first[starts] = True
    first[size] = True
    before = np.concatenate([[np.uint8(0)], text[:-1]])
    before[first] = 0
    following = np.where(np.append(first[1:], True), np.uint8(0), np.append(text[1:], np.uint8(0)))

    plain = _LETTER[text]
    lead = (text >= 0xC3) & (text <= 0xDF)  # two-byte characters: accented and other alphabets
    inner = (text >= 0x80) & (text <= 0xBF) & (before >= 0xC3) & (before <= 0xDF)
    apostrophe = (text == ord("'")) & _LETTER[before] & _LETTER[following]
    word = plain | lead | inner | apostrophe
    word[size] = False

    begins = np.flatnonzero(word & (first | ~np.concatenate([[False], word[:-1]])))
    ends = np.flatnonzero(~word | first)  # the first of these after its beginning ends a word
    end = ends[np.searchsorted(ends, begins, side="right")] if len(begins) else begins
    # The byte after an apostrophe determines whether it ends the word.
    complete = end + (text[end] == ord("'"))
    document_end = np.append(starts[1:], size)[np.searchsorted(starts, begins, side="right") - 1]
    complete = np.where(complete < document_end, complete, _NEVER)

    blank = (text == 10) & (before == 10)
    terminator = (text == ord(".")) | (text == ord("!")) | (text == ord("?"))
    space = (text == 32) | (text == 10) | (text == 13) | (text == 9)
    soft = space | (text == ord("-")) | (text == ord("'"))
    hard = (~word & ~soft) | blank
    hard[size] = False

    # A sentence ends at white space after a terminator, at an empty line, or with the document.
    stops = np.flatnonzero(terminator)
    spaces = np.flatnonzero(space)
    at = np.searchsorted(spaces, stops)
    stops, at = stops[at < len(spaces)], at[at < len(spaces)]
    ends_at = spaces[at]
    gap = np.cumsum(word)
    ends_at = ends_at[gap[ends_at] == gap[stops]]  # "3.5" and "e.g" continue a word
    sentences = np.unique(np.concatenate([starts, ends_at, np.flatnonzero(blank)]))
    sentence = np.searchsorted(sentences, begins, side="right") - 1

    hards = np.append(np.flatnonzero(hard), size)
    punctuation = hards[np.searchsorted(hards, end)] if len(end) else end
    next_begin = np.append(begins[1:], size)
    closed = punctuation < next_begin
    last = np.append(sentence[1:] != sentence[:-1], True) if len(begins) else closed
    punctuation = np.where(punctuation < document_end, punctuation, _NEVER)
    possessive = (end - begins > 2) & (text[end - 1] == ord("s")) & (text[end - 2] == ord("'"))
    return _Words(
        hash=_hash(text, begins, end),
        complete=complete,
        closed=closed | last,
        punctuation=punctuation,
        sentence=sentence,
        possessive=possessive,
        sentences=sentences,
    )


_LETTER = np.zeros(256, bool)
_LETTER[[*range(48, 58), *range(65, 91), *range(97, 123)]] = True
_LOWER = np.arange(256, dtype=np.uint64)
_LOWER[65:91] += np.uint64(32)


def _hash(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return (words,) uint64: h <- 1099511628211 * (h + byte) over the first bytes of each word."""
    value = np.full(len(begins), 14695981039346656037, np.uint64)
    alive = np.arange(len(begins))
    for i in range(_MAX_WORD):
        alive = alive[begins[alive] + i < ends[alive]]
        if len(alive) == 0:
            break
        byte = _LOWER[text[begins[alive] + i]]
        value[alive] = (value[alive] + byte) * np.uint64(1099511628211)
    return value ^ (value >> np.uint64(29))


def _hash_words(words: Sequence[str]) -> np.ndarray:
    data = [word.lower().encode() for word in words]
    ends = np.cumsum([len(word) for word in data])
    begins = np.concatenate([[0], ends[:-1]])
    return _hash(np.frombuffer(b"".join(data) + b"\0", np.uint8), begins, ends)


def _tables(lexicon: Lexicon) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sorted word hashes, and the category code and lemma hash of each."""
    categories, lemmas = zip(*lexicon.values(), strict=True)
    hashes = _hash_words(list(lexicon))
    order = np.argsort(hashes)
    codes = np.array([_CODES[category] for category in categories])
    return hashes[order], codes[order], _hash_words(lemmas)[order]


def _next(mask: np.ndarray, inclusive: bool = False) -> np.ndarray:
    """Return (n,) indices of the next True after (inclusive: or at) each element, n if none."""
    n = len(mask)
    at = np.minimum.accumulate(np.where(mask, np.arange(n), n)[::-1])[::-1]
    return at if inclusive else np.append(at[1:], n)[:n]


def _previous(mask: np.ndarray) -> np.ndarray:
    """Return (n,) indices of the last True before each element, -1 if none."""
    at = np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1))
    return np.concatenate([[-1], at[:-1]])[: len(mask)]
