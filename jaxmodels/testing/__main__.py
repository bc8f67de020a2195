"""`python -m jaxmodels.testing [NAME | path/to/my_cell.py ...]`."""

import sys

from jaxmodels.cells import CELLS
from jaxmodels.errors import UserError
from jaxmodels.testing import cells_in_file, check_cell


def main(arguments: list[str]) -> int:
    """-> the exit status: 0 all kept, 1 a promise broken, 2 a mistake in the input."""
    failures = 0
    try:
        for argument in arguments or list(CELLS):
            is_path = argument.endswith(".py") or "/" in argument
            for cell in cells_in_file(argument) if is_path else [argument]:
                failures += sum(not result.ok for result in check_cell(cell, raises=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{failures} broken" if failures else "all promises kept")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
