"""The exceptions for invalid input."""


class UserError(ValueError):
    """Invalid input. The message is one line that names the problem, its location and the fix.

    Command lines print it without a traceback and exit with status 2.
    """


class NotDifferentiable(UserError):
    """A derivative that a form of a cell or an op does not have.

    The message names the form and one that has the derivative.
    """
