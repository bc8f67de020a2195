"""Maths of a HyperTensor field: interpolation between bands, distances, weights."""

from jaxmodels.ops.field.distance import DISTANCES, WEIGHTINGS, distance, weigh
from jaxmodels.ops.field.interpolation import INTERPOLATIONS, interpolate

__all__ = ["DISTANCES", "INTERPOLATIONS", "WEIGHTINGS", "distance", "interpolate", "weigh"]
