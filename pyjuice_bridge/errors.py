"""The one exception meant for the person at the keyboard."""


class UserError(Exception):
    """Bad input: one sentence naming the file, field or array and what to do about it.

    The command line and notebooks print the message alone; elsewhere it is an ordinary exception.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def shown(value: object) -> str:
    """Show a value on one short line, for a message."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python does not write such long numbers out
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}…"
