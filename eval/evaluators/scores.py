"""Scores of answers: exact match, BLEU, chrF, ROUGE-L, cell accuracy of grids.

BLEU and chrF come from sacrebleu, ROUGE-L from rouge-score; all are in [0, 1]. Sentence BLEU uses
sacrebleu's "exp" smoothing and effective order; otherwise every answer of fewer than four words
would score 0.
"""

from collections.abc import Sequence

import numpy as np

from jaxmodels.data.tokenizers.grid import NO_CELL
from jaxmodels.errors import UserError


def text_scores(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Return scores over all answers.

    Returns:
      exact: fraction of exact matches.
      bleu: mean sentence BLEU (docs/systems.md, L-53); corpus_bleu: corpus BLEU.
      chrf: corpus chrF, character 6-grams.
      rouge_l: mean F1 of the longest common subsequence of words.
      length, expected_length: mean number of characters.
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
    """Tokenizer for any alphabet; rouge-score's default drops all but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def grid_scores(
    answers: Sequence[str], expected: Sequence[str], questions: Sequence[str]
) -> dict[str, float]:
    """Return scores of grids with one symbol per cell.

    Returns:
      exact: fraction of grids with every cell correct.
      cells: fraction of correct cells; open_cells: the same over cells where the expected answer
        differs from the question. Positions without a cell in `expected` are ignored.
    """
    question = np.array([list(text) for text in questions])
    truth = np.array([list(text) for text in expected])
    answer = np.array(
        [list(a.ljust(len(e))[: len(e)]) for a, e in zip(answers, expected, strict=True)]
    )
    cells = truth != NO_CELL
    right = (answer == truth) & cells
    is_open = (question != truth) & cells
    return {
        "exact": float((right | ~cells).all(1).mean()),
        "cells": float(right.sum() / cells.sum()),
        "open_cells": float((right & is_open).sum() / max(is_open.sum(), 1)),
    }
