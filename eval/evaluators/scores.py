"""Scores of answers against what was expected: exact, BLEU, chrF, ROUGE-L, cells of grids.

BLEU and chrF are sacrebleu's, ROUGE-L rouge-score's. All lie in [0, 1]. Sentence BLEU is smoothed
by sacrebleu's method "exp" and counts no longer n-grams than the sentence has ("effective order"):
without either, an answer of three words always scores 0 (SYSTEMS 5.3).
"""

from collections.abc import Sequence

import numpy as np

from jaxmodels.data.tokenizers.grid import NO_CELL
from jaxmodels.errors import UserError


def text_scores(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Means over all answers.

    Returns:
      exact: share that is right to the letter.
      bleu: mean of sentence BLEU (L-53); corpus_bleu: of the whole.
      chrf: of the whole, character 6-grams.
      rouge_l: mean F1 of the longest common subsequence of words.
      length, expected_length: characters.
    """
    if len(answers) != len(expected) or not answers:
        raise ValueError(f"{len(answers)} answers for {len(expected)} questions")
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise UserError(
            f"scores of text need the PyPI packages sacrebleu and rouge-score ({error}); "
            "pip install sacrebleu rouge-score"
        ) from error

    sentence = BLEU(effective_order=True)
    pairs = list(zip(answers, expected, strict=True))
    rouge = RougeScorer(["rougeL"], tokenizer=_Words())
    return {
        "exact": float(np.mean([a == e for a, e in pairs])),
        "bleu": float(np.mean([sentence.sentence_score(a, [e]).score for a, e in pairs]) / 100),
        "corpus_bleu": BLEU().corpus_score(list(answers), [list(expected)]).score / 100,
        "chrf": CHRF().corpus_score(list(answers), [list(expected)]).score / 100,
        "rouge_l": float(np.mean([rouge.score(e, a)["rougeL"].fmeasure for a, e in pairs])),
        "length": float(np.mean([len(a) for a in answers])),
        "expected_length": float(np.mean([len(e) for e in expected])),
    }


class _Words:
    """Words of any alphabet: rouge-score's own knows a to z only."""

    def tokenize(self, text: str) -> list[str]:
        return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def grid_scores(
    answers: Sequence[str], expected: Sequence[str], questions: Sequence[str]
) -> dict[str, float]:
    """Of grids, one symbol a cell.

    Returns:
      exact: share of grids that are right in every cell.
      cells: share of right cells; open_cells: of those that the question left open, i.e. in which
        the answer differs from it. Places where `expected` has no cell do not count.
    """
    given = np.array([list(text) for text in questions])
    right_text = np.array([list(text) for text in expected])
    got = np.array(
        [list(a.ljust(len(e))[: len(e)]) for a, e in zip(answers, expected, strict=True)]
    )
    cells = right_text != NO_CELL
    right = (got == right_text) & cells
    is_open = (given != right_text) & cells
    return {
        "exact": float((right | ~cells).all(1).mean()),
        "cells": float(right.sum() / cells.sum()),
        "open_cells": float((right & is_open).sum() / max(is_open.sum(), 1)),
    }
