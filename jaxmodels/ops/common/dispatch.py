"""Selection of an op's implementation by name."""

from collections.abc import Callable

from jaxmodels.errors import UserError


def select_implementation(name: str, **implementations: Callable) -> Callable:
    """Return the implementation called `name`.

    Common names: "auto" (the fastest XLA implementation on the target platform), "xla", "xla_loop"
    (one loop for a TPU) and "pallas" (TPU kernels, interpreted elsewhere).

    Raises:
      UserError: the op has no such implementation.
    """
    if name not in implementations:
        raise UserError(
            f"implementation={name!r} is unknown to this op; "
            f"choose from: {', '.join(implementations)}"
        )
    return implementations[name]
