"""The one exception that stands for a user's mistake, and how a command reports it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
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


def _describe(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}. Check the path, its permissions and the free space"


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with a line on stderr instead of a traceback.

    An `InputError` and whatever the system refuses (no space, no permission) exit with code 2, an
    interrupt with 130 (what shells give a process that SIGINT ended).
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        except BrokenPipeError:  # `| head`: click knows what to do
            raise
        except OSError as error:
            print(f"Error: {_describe(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("Interrupted. What was finished is kept.", file=sys.stderr)
            raise SystemExit(130) from None

    return wrapped
