"""Files that are whole or not there at all, their checksums, and typed records of JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from io import BytesIO
from typing import Any, BinaryIO, TypeVar, get_args, get_origin, get_type_hints

from preprocess.errors import InputError
from preprocess.storage import Place, Remote

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

T = TypeVar("T")
_MOST_BYTES = 1 << 30
_UNFINISHED = re.compile(r"\.(.+)\.([1-9][0-9]{0,8})\.tmp", re.DOTALL)
LOCK = ".lock"
MAX_MEGAPIXELS = 100.0  # what the header of a picture may claim, unless the user allows more


@contextmanager
def atomic_file(path: Place, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under its name only when complete.

    With `sync` it is also on the disk by then, so that a power cut leaves no empty file.
    """
    if isinstance(path, Remote):
        content = BytesIO()
        yield content
        path.put(content.getvalue())
        return
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
        with suppress(OSError):  # that of a disk turned read-only would hide the first one
            temporary.unlink(missing_ok=True)


def unfinished(folder: Place) -> Iterator[tuple[Place, str, int]]:
    """Yield what `atomic_file` has not completed: file, the name it is to have, and process."""
    for path in folder.glob(".*.tmp"):
        if found := _UNFINISHED.fullmatch(path.name):
            yield path, found[1], int(found[2])


def remove_unfinished(*folders: Place) -> None:
    """Delete what `atomic_file` left in folders that this process has locked."""
    for folder in folders:
        for path, _, _ in unfinished(folder):
            path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Place, name: str = LOCK, *, shared: bool = False) -> Iterator[None]:
    """Keep other processes that ask from writing into a folder, which is made if it is missing.

    Several may hold a lock that is `shared`; then no one may hold it alone. The system takes the
    lock back when its owner ends, however it ends; the empty file stays. Object storage has
    no locks.

    Raises
    ------
    InputError
        If another process holds the folder.
    """
    if isinstance(folder, Remote):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a+") as file:  # NFS shares a lock only of a file open for reading
        try:
            if sys.platform != "win32":
                kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            elif not shared:  # Windows has no shared lock here
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                remedy = "Wait until it ends, or give another folder"
                raise InputError(folder, "is in use by another run", remedy) from None
            # Else this file system knows no locks.
        yield


def write_json(path: Place, content: object) -> None:
    """Write JSON for people and programs; what JSON does not know becomes text."""
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2, default=str).encode() + b"\n")


def read_file(path: Place, remedy: str = "Check the path and its permissions") -> bytes:
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
        if isinstance(path, Remote):
            return path.read_range(0, found.st_size)
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(path, "does not exist", remedy) from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror or error})", remedy) from None


def file_sha256(path: Place) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def from_fields(kind: type[T], content: Any) -> T:
    """Build a dataclass, and those in its fields, from what JSON makes of `asdict`.

    Raises
    ------
    ValueError, TypeError
        If a key is unknown or missing, or a value is of another type than its field.
    """
    if not isinstance(content, dict):
        raise ValueError(f"{content!r:.40} for {kind.__name__}")
    hints = get_type_hints(kind)
    if unknown := content.keys() - hints:
        raise ValueError(f"unknown key {min(unknown)!r} for {kind.__name__}")
    return kind(**{name: _typed(hints[name], value, name) for name, value in content.items()})


def _typed(hint: Any, value: Any, name: str) -> Any:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if is_dataclass(kind):
        return from_fields(hint, value)
    if kind is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(inner[0], entry, name) for entry in value)
    if kind is dict and isinstance(value, dict):
        return {key: _typed(inner[1], entry, name) for key, entry in value.items()}
    if type(value) is kind or (kind, type(value)) == (float, int):
        return value
    raise ValueError(f"{name} is {value!r:.40}, expected {kind.__name__}")
