"""The exception for invalid input."""


class UserError(ValueError):
    """Invalid input. The message is one line that names the problem, its location and the fix.

    Command lines print it without a traceback and exit with status 2.
    """
