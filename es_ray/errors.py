"""The ways in which es-ray fails, as one line for a person."""


class UserError(Exception):
    """Bad input, found before anything was written: the command exits with 2."""


class RunError(Exception):
    """A run that could not continue: the command exits with 1, finished generations are complete.

    reported: its message is on standard error already.
    """

    def __init__(self, message: str, reported: bool = False) -> None:
        super().__init__(message)
        self.reported = reported


class Interrupted(Exception):  # noqa: N818 - Ctrl-C is not an error
    """Ctrl-C or SIGTERM, with what to say about it: the command exits with 130 or 143."""

    def __init__(self, message: str, code: int = 130) -> None:
        super().__init__(message)
        self.code = code


class EvaluationError(Exception):
    """A candidate that could not be evaluated; the message names it. Never turned into a reward."""


class ScoreError(EvaluationError):
    """A task that did not score a completion: the message has its line, the example and the candidate."""


class RemoteTraceback(Exception):  # noqa: N818 - the cause of an error, itself none
    """The traceback of an exception in another process, as the cause of the error raised here."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def last_line(error: BaseException) -> str:
    """The last line of an exception that may hold the traceback of another process."""
    return next((line for line in reversed(str(error).splitlines()) if line.strip()), "").strip()[:200]
