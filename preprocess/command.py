"""What the command lines of all three programs share."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import click

from preprocess import __version__
from preprocess.errors import InputError, require

P = ParamSpec("P")
R = TypeVar("R")


class DefaultsTo(click.Group):
    """A click group in which one command's name may be left out."""

    def __init__(self, *args: object, default: str, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where the first word is none."""
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if not (args and args[0] in self.commands.keys() | own):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


HELP = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
VERSION = click.version_option(__version__, "--version")

ENGINE = click.option("--engine", type=click.Choice(["processes", "ray"]), default="processes")
ADDRESS = click.option("--address", help="A running Ray cluster: HOST:PORT or auto.  "
                       "[default: a local one]")  # fmt: skip


def ray_address(engine: str, address: str | None) -> str | None:
    """Return where Ray is, "local" if it has to be started, None if it is not the engine."""
    require(engine == "ray" or address is None, "--address", f"is {address}", "--engine ray too")
    return (address or "local") if engine == "ray" else None


def one_line(text: object) -> str:
    """Return a message on one line that any terminal shows: names of files may hold anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _describe(error: OSError) -> str:
    if error.filename is None or error.strerror is None:
        return str(error)
    remedy = "Check the path, its permissions and the free space, then run again"
    return f"{error.filename}: {error.strerror}. {remedy}"


def reports_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with a line on stderr instead of a traceback.

    An `InputError` and whatever the system refuses (no space, no permission) exit with code 2, an
    interrupt with 130 (what shells give a process that SIGINT ended).
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a file's name may not be text
                stream.reconfigure(errors="backslashreplace")
        try:
            return command(*args, **kwargs)
        except InputError as error:
            print(f"Error: {one_line(error)}", file=sys.stderr)
            raise SystemExit(2) from None
        except BrokenPipeError:  # `| head`: click knows what to do
            raise
        except OSError as error:
            print(f"Error: {one_line(_describe(error))}", file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("Interrupted. What was finished is kept.", file=sys.stderr)
            raise SystemExit(130) from None

    return wrapped
