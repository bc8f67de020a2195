"""Config fields `data.*`: sources, splits, tokenization and batching."""

from ml_collections import ConfigDict

from jaxmodels.cli import did_you_mean
from jaxmodels.data.chat.corpora import CORPORA
from jaxmodels.data.readers.formats import FORMATS
from jaxmodels.data.text.mixture import IDENTITY_PHASES
from jaxmodels.data.tokenizers.fit import TEXT_TOKENIZERS as FITTED_TOKENIZERS
from jaxmodels.data.tokenizers.folder import DEFAULT, NAMED, is_read
from jaxmodels.data.unused import LIMIT
from jaxmodels.errors import UserError
from train.fields import Field, Group, at_least, free, one_of, texts, within

ANSWER_FORMATS = ("pairs", "task", "puzzle", "built")  # see train/tasks/answers.py
CHAT_FORMAT = "chat"  # see train/tasks/chat.py
SYNTHETIC_FORMAT = "synthetic"  # see train/tasks/synthetic.py
PREFIXED = ("pairs", "built")  # formats whose questions stand behind `question_prefix`
COLUMN_FORMATS = ("pairs", "puzzle", CHAT_FORMAT)
TEXT_TOKENIZERS = ("byte", "char", "word", *NAMED)  # or a tokenizer.json, by its path
ANSWER_TOKENIZERS = (*FITTED_TOKENIZERS, "grid")
TOKENIZERS = (*TEXT_TOKENIZERS, *ANSWER_TOKENIZERS, "ids")
MODES = ("tracks", "windows", "packed")
LABELS = ("none", "relations")
VALID_FROM = ("split", "tail_of_tracks")


def _tokenizer(name: str) -> str:
    return "" if is_read(name) else one_of(TOKENIZERS)(name)


def _piece(tokens: int) -> str:
    return "" if tokens == 0 or tokens >= 2 else f"must be 0 (whole) or >= 2, got {tokens}"


def _corpora(names: tuple[str, ...]) -> str:
    if wrong := texts(names):
        return wrong
    unknown = [name for name in names if name not in CORPORA]
    return f"unknown {unknown[0]!r}{did_you_mean(unknown[0], CORPORA)}" if unknown else ""


def _utf8(text: str) -> str:
    halves = any("\ud800" <= symbol <= "\udfff" for symbol in text)  # bytes that are no UTF-8
    return "must be UTF-8" if halves else ""


def _columns(names: tuple[str | int, ...]) -> str:
    wrong = [name for name in names if not isinstance(name, str | int) or isinstance(name, bool)]
    if wrong or len(names) == 1:
        return f"must name two fields or more, the answer last, got {names!r}"
    return ""


def _check_columns(config: ConfigDict) -> None:
    d = config.data
    if d.columns and d.format not in COLUMN_FORMATS:
        raise UserError(
            f"config.data.columns: format {d.format!r} has no columns to name; leave it out, or "
            f"choose data.format from: {', '.join(COLUMN_FORMATS)}"
        )


_COLUMNS = "Fields to read of a question (pairs, chat, puzzle), the answer last; () = known names."
_MAX_UNUSED = "Largest share of unread text or unknown symbols; more is an error."
_CORPORA = f"Conversations, if there are no paths: {', '.join(CORPORA)}."
_FORMATS = (*FORMATS, *ANSWER_FORMATS, CHAT_FORMAT, SYNTHETIC_FORMAT)
GROUP = Group(
    "data",
    (
        free("paths", (), "Files, folders or globs; none = the packaged corpus.", texts),
        Field("format", "text", f"One of {', '.join(_FORMATS)}.", one_of(_FORMATS)),
        Field("valid_fraction", 0.05, "Fraction of the documents held out for validation."),
        Field("test_fraction", 0.05, "Fraction of the documents held out for testing."),
        Field("valid_from", "split", f"One of {', '.join(VALID_FROM)}.", one_of(VALID_FROM)),
        Field("mixture", {}, "Sources by name with weights by phase (train/tasks/text.py)."),
        Field("mixture_ends", IDENTITY_PHASES, "Fraction of the steps at which each phase ends."),
        Field("tokenizer", DEFAULT, f"One of {', '.join(TOKENIZERS)}, or a file.", _tokenizer),
        Field("max_tokens", 4096, "Largest vocabulary of a fitted tokenizer.", at_least(3)),
        Field("min_freq", 1, "Minimum number of occurrences of a word in the vocabulary."),
        Field("mode", "tracks", f"How rows are cut: {', '.join(MODES)}.", one_of(MODES)),
        Field("piece_tokens", 0, "Cut documents into pieces of this length; 0 = no.", _piece),
        Field("span_tokens", 0, "Train on spans of this length that begin at lines.", _piece),
        Field("carry_state", True, "Hand the recurrent state from segment to segment."),
        Field("features", "", "Folder of contexts, projected once and replayed (features.py)."),
        Field("labels", "none", f"One of {', '.join(LABELS)}.", one_of(LABELS)),
        Field("lexicon", (), "Files of a lexicon for relation labels; () = the built-in words."),
        Field("label_slots", 16, "Slots of the relation labels."),
        Field("label_roles", 4, "Roles of the relation labels."),
        Field("label_classes", 256, "Classes of the relation labels."),
        Field(
            "tasks", (), "Names of generated tasks or puzzles (answers.py, synthetic.py).", texts
        ),
        Field("task_fields", {}, "Fields of a synthetic task (jaxmodels/data/synthetic)."),
        Field("examples", 2000, "Examples of a task, puzzle or generated corpus, over all splits."),
        Field("digits", 3, "Most digits of a number of the corpus arithmetic.", at_least(1)),
        Field(
            "question_prefix",
            "",
            "Text in front of each question of `pairs`; of `built`, its own.",
            _utf8,
        ),
        Field("columns", (), _COLUMNS, _columns),
        free("max_unused", LIMIT, _MAX_UNUSED, within("[0, 1]")),
        Field("corpora", (), _CORPORA, _corpora),
        Field("context_turns", 3, "Most turns of a conversation before a prompt.", at_least(0)),
        Field("skip_long", False, "Leave out questions that do not fit in seq_len."),
        Field("augment", False, "Turn a puzzle, or noise a question, each time it is drawn."),
        Field("augment_rate", 0.1, "Tokens of a question swapped, and blanked.", within("[0, 1)")),
        free("eval_tokens", 65536, "Validation tokens per evaluation; 0 = all.", at_least(0)),
        free("prefetch", 2, "Batches prepared ahead.", at_least(0)),
    ),
    _check_columns,
)
