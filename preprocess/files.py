"""Files that are whole or not there at all, their checksums, and typed records of JSON."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from preprocess.errors import InputError

T = TypeVar("T")
_MOST_BYTES = 1 << 30


@contextmanager
def atomic_file(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when complete.

    With `sync` it is also on the disk by then, so that a power cut leaves no empty file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_file(path: Path, remedy: str = "Check the path and its permissions") -> bytes:
    """Read a file of at most 1 GiB.

    Raises
    ------
    InputError
        If it cannot be read, is no regular file (a pipe would wait for ever), or larger.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(path, "is a folder, a pipe or a device", "Give a regular file")
        if found.st_size > _MOST_BYTES:
            raise InputError(path, f"has {found.st_size} bytes", f"Expected up to {_MOST_BYTES}")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy) from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})", remedy) from None


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def from_fields(kind: type[T], content: dict[str, Any]) -> T:
    """Build a dataclass from a dictionary; a key that it does not know fails."""
    unknown = content.keys() - {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r} for {kind.__name__}")
    return kind(**content)
