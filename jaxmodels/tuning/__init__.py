"""Tuning of a trained model: wrappers whose learned arrays are few, around a base that is frozen.

    model = learn_state(base)                  # the initial state alone
    model = learn_additions(base, rank=8)      # low-rank additions to the matrices alone (LoRA)

A wrapper follows the model contract; its trait `learned` tells the trainer which arrays to train.
"""

from jaxmodels.tuning.initial import InitialState, learn_state
from jaxmodels.tuning.lora import LowRankAdditions, learn_additions

__all__ = ["InitialState", "LowRankAdditions", "learn_additions", "learn_state"]
