"""The one exception that stands for a user's mistake, and how a command reports it."""

from __future__ import annotations

from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class InputError(ValueError):
    """Something handed to us cannot be used; the message says what and how to mend it.

    Parameters
    ----------
    where
        File, folder or option that the message is about.
    problem
        What was found there, with the value.
    remedy
        What was expected instead, or what to do.
    """

    def __init__(self, where: object, problem: str, remedy: str) -> None:
        super().__init__(f"{where}: {problem}. {remedy}")
        self.where = str(where)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """Rebuild from the three parts: worker processes send errors back by pickle."""
        return type(self), (self.where, self.problem, self.remedy)


class DecodeError(InputError):
    """An image file that no decoder can read."""


def require(true: bool, where: str, problem: str, expected: str) -> None:
    """Raise an `InputError` unless a condition holds."""
    if not true:
        raise InputError(where, problem, f"Expected {expected}")
