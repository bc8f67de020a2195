"""The one place where an op's `implementation` argument is read."""

from collections.abc import Callable

from jaxmodels.errors import UserError


def select_implementation(name: str, **implementations: Callable) -> Callable:
    """Return the implementation called `name`.

    Ops name theirs alike: "auto" (the fastest XLA form on the platform that the program is compiled
    for), "xla", "xla_loop" (one loop for a TPU) and "pallas" (TPU kernels, interpreted elsewhere).

    Raises:
      UserError: the op has no such implementation.
    """
    if name not in implementations:
        raise UserError(
            f"implementation={name!r} is unknown to this op; "
            f"choose from: {', '.join(implementations)}"
        )
    return implementations[name]
