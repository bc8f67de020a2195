"""How a model is talked to: what `eval.chat` and `eval.serve` do alike."""

from pathlib import Path

from jaxmodels.data.chat.template import ChatTemplate, read_template
from jaxmodels.models.rnk.model import RNK

REFUSAL = "I can't answer that."


def template_of(folder: Path, *, chats: bool) -> ChatTemplate | None:
    """Return the chat template of a model's folder, None if it is not talked to through one.

    Args:
      folder: of the run or of the weights.
      chats: whether the model was trained on conversations: then it knows their marks instead.
    """
    return None if chats else read_template(folder)


def refusal_threshold(model, given: float | None, *, chats: bool) -> float:
    """Return the probability of being able to answer below which RNK refuses.

    Args:
      given: what a user asks for; None = 0.5 if the head was trained, else 0, never.
      chats: whether the model was trained on conversations.
    """
    if given is not None:
        return given
    return 0.5 if isinstance(model, RNK) and chats and model.config.answerable_weight > 0 else 0.0


def reply_alignment(model) -> int:
    """Return the multiple of tokens after which a reply begins: RNK's fixed chunk, else 1."""
    fixed = isinstance(model, RNK) and model.config.chunking == "fixed"
    return model.config.chunk_size if fixed else 1
