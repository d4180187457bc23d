"""Files that are whole or not there at all, their checksums, and typed records of JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from preprocess.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

T = TypeVar("T")


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
    except OSError as error:
        if error.filename in {None, str(temporary)}:  # a full disk names no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes that ask from writing into a folder, which is made if it is missing.

    The system takes the lock back when its owner ends, however it ends; the empty file stays.

    Raises
    ------
    InputError
        If another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            if sys.platform == "win32":
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                remedy = "Wait until it is done, or give another folder"
                raise InputError(folder, "another process is writing there", remedy) from None
            # Else this file system knows no locks.
        yield


def write_json(path: Path, content: object) -> None:
    """Write JSON for people and programs; what JSON does not know becomes text."""
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2, default=str).encode() + b"\n")


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
