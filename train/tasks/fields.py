"""Config fields `data.*`: what is read, how it is split, tokenised and batched."""

from __future__ import annotations

from jaxmodels.data.readers.formats import FORMATS
from jaxmodels.data.text.mixture import IDENTITY_PHASES
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS as FITTED_TOKENIZERS
from train.fields import Field, Group, at_least, one_of

ANSWER_FORMATS = ("pairs", "task", "puzzle", "built")  # see train/tasks/answers.py
TEXT_TOKENIZERS = ("byte", "char", "word")
ANSWER_TOKENIZERS = (*FITTED_TOKENIZERS, "grid")
TOKENIZERS = TEXT_TOKENIZERS + ANSWER_TOKENIZERS
MODES = ("tracks", "windows", "packed")
LABELS = ("none", "relations")
VALID_FROM = ("split", "tail_of_tracks")


def _whole_or_two(tokens: int) -> str:
    return "" if tokens == 0 or tokens >= 2 else f"0 (whole) or >= 2, got {tokens}"


GROUP = Group(
    "data",
    (
        Field(
            "paths",
            (),
            "Files, folders or globs; none = the packaged State of the Union speeches.",
            resume=True,
        ),
        Field(
            "format",
            "text",
            f"How files become documents ({', '.join(FORMATS)}), or questions with answers: "
            f"{', '.join(ANSWER_FORMATS)}.",
            one_of((*FORMATS, *ANSWER_FORMATS)),
        ),
        Field("valid_fraction", 0.05, "Share of the documents held out for validation."),
        Field("test_fraction", 0.05, "Share of the documents held out for the test split."),
        Field(
            "valid_from",
            "split",
            "split: whole documents. tail_of_tracks: the last valid_fraction of each row's track.",
            one_of(VALID_FROM),
        ),
        Field("mixture", {}, "Sources by name with weights by phase, see train/tasks/text.py."),
        Field(
            "mixture_ends", IDENTITY_PHASES, "Share of the steps at which each phase of it ends."
        ),
        Field("tokenizer", "byte", f"One of {', '.join(TOKENIZERS)}.", one_of(TOKENIZERS)),
        Field("max_tokens", 4096, "Largest vocabulary of a tokenizer that is fitted.", at_least(3)),
        Field("min_freq", 1, "Occurrences that make a word a token of its own."),
        Field(
            "mode",
            "tracks",
            "tracks: each row continues where it stopped. windows: random places. packed: whole "
            "documents.",
            one_of(MODES),
        ),
        Field(
            "piece_tokens",
            0,
            "Length of the pieces that training documents are cut into; 0 = left whole.",
            _whole_or_two,
        ),
        Field("carry_state", True, "Hand the recurrent state from segment to segment."),
        Field(
            "labels",
            "none",
            "relations: labels derived from the text as it is read.",
            one_of(LABELS),
        ),
        Field("label_slots", 16, "Slots of those labels."),
        Field("label_roles", 4, "Roles of those labels."),
        Field("label_classes", 256, "Classes of those labels."),
        Field("tasks", (), "Names of generated tasks or puzzles, see train/tasks/answers.py."),
        Field("examples", 2000, "Examples of each task or puzzle, over all splits."),
        Field("question_prefix", "", "Text in front of each question of format `pairs`."),
        Field("skip_long", False, "Leave out questions that do not fit in seq_len."),
        Field("augment", False, "Apply a random symmetry to a puzzle each time it is drawn."),
        Field(
            "eval_tokens",
            65536,
            "Tokens of the validation split that each evaluation reads; 0 = all.",
            at_least(0),
            resume=True,
        ),
        Field("prefetch", 2, "Batches prepared ahead.", at_least(0), resume=True),
    ),
)
