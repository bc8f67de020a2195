"""Removal of what wrappers put before the names of a model's tensors.

torch's DistributedDataParallel adds `module.`, torch.compile `_orig_mod.`, Lightning `model.`; a
file of the inner model alone lacks the name under which a model with a head holds it.
"""

from jaxmodels.convert.tensors import Tensors
from jaxmodels.errors import UserError

HEADS = ("lm_head.weight", "head.weight")  # beside the inner model, not in it


def settle_prefix(tensors: Tensors, first: str, inner: str = "") -> Tensors:
    """Return the tensors under the names that a table of rows has.

    Args:
      tensors: tensors of a file.
      first: name, within the inner model, of a tensor that every such model has in its first layer.
      inner: what a model with a head puts before the names of the inner model, "backbone.".

    Raises:
      UserError: no such tensor under any prefix, or under several.
    """
    ends = [name for name in tensors.arrays if name.endswith(first)]
    found = sorted({name.removesuffix(first) for name in ends})
    found = [prefix for prefix in found if not prefix or prefix.endswith(".")]
    if len(found) > 1:
        listed = ", ".join(f"{ascii(prefix)[:60]}" for prefix in found[:3])
        raise UserError(
            f"{tensors.path}: tensors of {len(found)} models, with the prefixes {listed}; keep one"
        )
    prefix = found[0] if found else inner
    if prefix == inner:
        tensors.shape(inner + first)  # raises if it is missing
        return tensors
    whole = prefix.endswith(inner)  # a wrapper around the model with its head
    outer = prefix.removesuffix(inner) if whole else prefix
    arrays, called = {}, {}
    for name, array in tensors.arrays.items():
        new = name.removeprefix(outer)
        if not whole and name.startswith(outer) and new not in HEADS:
            new = inner + new
        if new in arrays:
            raise UserError(f"{tensors.path}: tensors {called[new]!r} and {name!r} are the same")
        arrays[new], called[new] = array, name
    return Tensors(tensors.path, arrays, tensors.metadata, called)
