"""The one exception that means: the input is at fault, not the program."""


class UserError(ValueError):
    """A mistake in what the user gave. Its message is one line: what was wrong, where, and the fix.

    The command lines print it without a traceback and exit with status 2.
    """
