"""The one exception meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input: one sentence naming the file, field or array and what to do about it.

    The command line prints the message alone; from Python it is an ordinary exception.
    """
