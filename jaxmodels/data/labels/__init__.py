"""Relation labels for real text, found with a lexicon."""

from jaxmodels.data.labels.lexicon import Lexicon, builtin_lexicon, read_lexicon
from jaxmodels.data.labels.relations import RelationLabeller

__all__ = ["Lexicon", "RelationLabeller", "builtin_lexicon", "read_lexicon"]
