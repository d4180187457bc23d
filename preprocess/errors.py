"""The one exception that stands for a user's mistake."""

from __future__ import annotations


class InputError(ValueError):
    """Something handed to us cannot be used: a file, folder or option (`where`).

    `problem` says what was found there, with the value, and `remedy` what was expected or what to
    do.
    """

    def __init__(self, where: object, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}. {remedy}")
        self.where, self.problem, self.remedy = str(where), problem, remedy

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """Rebuild from the three parts: worker processes send errors back by pickle."""
        return type(self), (self.where, self.problem, self.remedy)


class DecodeError(InputError):
    """An image file that no decoder can read."""


class UnreadError(DecodeError):
    """A file that the disk or the network did not hand over: another try may read it."""


def require(true: bool, where: str, problem: str, expected: str) -> None:
    """Raise an `InputError` unless a condition holds."""
    if not true:
        raise InputError(where, problem, f"Expected {expected}")
