"""Random access to the files of a folder or of a zip that stays packed.

The list of members is made once, in the parent; a worker gets `Member` records and reads with a
handle of its own. (Python's `zipfile` would parse the 403,000 entries of the official zip again
in every worker: seconds and hundreds of megabytes each.)
"""

from __future__ import annotations

import os
import struct
import weakref
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from zlib_ng import zlib_ng

from preprocess.errors import DecodeError, InputError
from preprocess.inflate import inflate

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
# What `zipfile` raises on damaged lists of members.
_ZIP_ERRORS = (
    zipfile.BadZipFile, NotImplementedError, ValueError, IndexError, struct.error, OSError
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a source.

    Attributes
    ----------
    name
        Path relative to the source, with slashes.
    size
        Bytes, unpacked.
    modified
        Seconds since the epoch; of the zip itself for its members.
    offset
        Of the local header in the zip; -1 in a folder.
    """

    name: str
    size: int
    modified: float
    offset: int = -1
    packed_size: int = 0
    method: int = zipfile.ZIP_STORED
    crc: int = 0

    def read(self, source: Path) -> bytes:
        """Return the file's bytes.

        Raises
        ------
        DecodeError
            Where the file is gone or its place in the zip is damaged.
        """
        if self.offset < 0:
            try:
                return (source / self.name).read_bytes()
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
                raise DecodeError(source / self.name, problem, "Check the file") from None
        return self._read_zip(source)

    def _read_zip(self, archive: Path) -> bytes:
        # Local header, name and extra field lie before the data; 512 bytes more than the header
        # nearly always cover them, so one read is enough.
        start = _read_at(archive, self.offset, _LOCAL_HEADER.size + 512 + self.packed_size)
        damaged = DecodeError(
            f"{archive}:{self.name}", "is damaged in the zip", "Download it again"
        )
        if len(start) < _LOCAL_HEADER.size or start[:4] != b"PK\3\4":
            raise damaged
        name_length, extra_length = _LOCAL_HEADER.unpack_from(start)[-2:]
        begin = _LOCAL_HEADER.size + name_length + extra_length
        packed = start[begin : begin + self.packed_size]
        if len(packed) < self.packed_size:
            packed = _read_at(archive, self.offset + begin, self.packed_size)
        if self.method == zipfile.ZIP_STORED:
            data = packed
        elif self.method == zipfile.ZIP_DEFLATED:
            try:
                data = inflate(packed, self.size, raw=True)
            except ValueError:
                raise damaged from None
        else:
            problem = f"is packed with zip method {self.method}"
            raise DecodeError(f"{archive}:{self.name}", problem, "Zip with deflate or store")
        if len(data) != self.size or zlib_ng.crc32(data) != self.crc:
            raise damaged
        return data


class _Handle:
    """An open file, closed when nobody refers to it any more."""

    def __init__(self, archive: Path) -> None:
        self.number = os.open(archive, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.number)


@lru_cache(maxsize=4)
def _open(archive: Path, process: int) -> _Handle:
    """Open once per process (`process` is in the key because a fork shares file offsets)."""
    return _Handle(archive)


def _read_at(archive: Path, offset: int, length: int) -> bytes:
    opened = _open(archive, os.getpid())
    handle = opened.number
    if hasattr(os, "pread"):
        return os.pread(handle, length, offset)
    os.lseek(handle, offset, os.SEEK_SET)  # Windows: one thread per worker reads
    return os.read(handle, length)


def list_members(
    source: Path, keep: Callable[[str], bool] = lambda name: True
) -> dict[str, Member]:
    """List the files of a folder or zip whose name `keep` accepts, by relative path, sorted.

    Paths are normalised, and sorted folder by folder. (They are plain strings, mostly the member's
    own name: of 300,000 files `PurePosixPath` objects take 100 MB.)

    Raises
    ------
    InputError
        If the path does not exist or is neither a folder nor a zip.
    """
    if source.is_dir():
        found = _list_folder(source, keep)
    elif source.is_file():
        found = _list_zip(source, keep)
    else:
        raise InputError(source, "does not exist", "Give a folder or a zip file")
    by_name = {_normalised(member.name): member for member in found}
    return dict(sorted(by_name.items(), key=lambda item: item[0].replace("/", "\0")))


def _normalised(name: str) -> str:
    plain = str(PurePosixPath(name))
    return name if plain == name else plain


def _list_zip(archive: Path, keep: Callable[[str], bool]) -> Iterator[Member]:
    _open.cache_clear()  # another file may have this name by now
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            modified = archive.stat().st_mtime
    except _ZIP_ERRORS as error:
        raise InputError(archive, f"is no zip ({error})", "Give a folder or a whole zip") from None
    for entry in entries:
        if entry.filename and not entry.is_dir() and keep(entry.filename):
            yield Member(
                name=entry.filename,
                size=entry.file_size,
                modified=modified,
                offset=entry.header_offset,
                packed_size=entry.compress_size,
                method=entry.compress_type,
                crc=entry.CRC,
            )


def _list_folder(root: Path, keep: Callable[[str], bool]) -> Iterator[Member]:
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append(f"{name}/")
                elif keep(name) and entry.is_file():
                    stat = entry.stat()
                    yield Member(name, stat.st_size, stat.st_mtime)
