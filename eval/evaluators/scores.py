"""Scores of answers: exact match, BLEU, chrF, ROUGE-L, cell accuracy of grids.

BLEU and chrF come from sacrebleu, ROUGE-L from rouge-score; all are in [0, 1]. Sentence BLEU uses
sacrebleu's "exp" smoothing and effective order; otherwise every answer of fewer than four words
would score 0.

BLEU counts words as sacrebleu's tokenizer "13a" finds them, by spaces and punctuation: a sentence
in Chinese, Japanese or Thai is one word. Others are "zh" and "char", or, if their packages and
models are installed, "ja-mecab", "ko-mecab" and "flores200".
"""

import functools
import importlib
import re
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from eval.chat.panel import distinct
from jaxmodels.cli import did_you_mean
from jaxmodels.data.tokenizers.grid import NO_CELL
from jaxmodels.data.words import words_of
from jaxmodels.errors import UserError

BLEU_TOKENIZERS = ("13a", "zh", "char", "intl", "none", "ja-mecab", "ko-mecab", "flores200")
# Thai, Lao, Burmese and Khmer; kana; Chinese characters.
_SPACELESS = re.compile(r"[\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def bleu_of(tokenizer: str) -> Callable:
    """Return sacrebleu's BLEU with a tokenizer, a function of its other options.

    Raises:
      UserError: an unknown tokenizer, or what it needs is not installed.
    """
    if tokenizer not in BLEU_TOKENIZERS:
        hint = did_you_mean(tokenizer, BLEU_TOKENIZERS)
        raise UserError(f"--bleu-tokenizer={tokenizer}: unknown{hint}")
    bleu = functools.partial(_package("sacrebleu.metrics").BLEU, tokenize=tokenizer)
    try:
        bleu().corpus_score(["a"], [["a"]])  # loads its model, which may not be there
    except (ImportError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--bleu-tokenizer={tokenizer}: not available here ({reason:.160}); 13a, zh and char "
            "need nothing"
        ) from error
    return bleu


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"scores of text need the PyPI packages sacrebleu and rouge-score ({error}); "
            "pip install sacrebleu rouge-score"
        ) from error


def bleu_note(expected: Sequence[str], tokenizer: str) -> tuple[str, ...]:
    """Return a line if this tokenizer finds no words in the script of most of these texts."""
    text = "".join(expected)
    if tokenizer not in ("13a", "intl", "none") or 2 * len(_SPACELESS.findall(text)) < len(text):
        return ()
    return (
        f"BLEU: tokenizer {tokenizer!r} reads a text without spaces as one word; use "
        "--bleu-tokenizer=zh for Chinese, char for others",
    )


def text_scores(
    answers: Sequence[str], expected: Sequence[str], bleu_tokenizer: str = "13a"
) -> dict[str, float]:
    """Return scores over all answers.

    Args:
      answers, expected: texts of the model and of the data, in the same order.
      bleu_tokenizer: one of `BLEU_TOKENIZERS`.

    Returns:
      exact: fraction of exact matches.
      bleu: mean sentence BLEU (docs/systems.md, L-53); corpus_bleu: corpus BLEU.
      chrf: corpus chrF, character 6-grams.
      rouge_l: mean F1 of the longest common subsequence of words.
      distinct, expected_distinct: share of different pairs of words among all of the texts.
      length, expected_length: mean number of characters.
    """
    if len(answers) != len(expected) or not answers:
        raise ValueError(f"{len(answers)} answers for {len(expected)} questions")
    bleu, metrics = bleu_of(bleu_tokenizer), _package("sacrebleu.metrics")
    scorer = _package("rouge_score.rouge_scorer")
    sentence = bleu(effective_order=True)
    pairs = list(zip(answers, expected, strict=True))
    rouge = scorer.RougeScorer(["rougeL"], tokenizer=_Words())
    return {
        "exact": float(np.mean([a == e for a, e in pairs])),
        "bleu": float(np.mean([sentence.sentence_score(a, [e]).score for a, e in pairs]) / 100),
        "corpus_bleu": bleu().corpus_score(list(answers), [list(expected)]).score / 100,
        "chrf": metrics.CHRF().corpus_score(list(answers), [list(expected)]).score / 100,
        "rouge_l": float(np.mean([rouge.score(e, a)["rougeL"].fmeasure for a, e in pairs])),
        "distinct": distinct(answers, 2) or 0.0,
        "expected_distinct": distinct(expected, 2) or 0.0,
        "length": float(np.mean([len(a) for a in answers])),
        "expected_length": float(np.mean([len(e) for e in expected])),
    }


class _Words:
    """Tokenizer for any alphabet; rouge-score's default drops all but a-z and 0-9."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text.lower())


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
