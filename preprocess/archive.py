"""The files of a folder, or of a zip that stays packed, on disk or in object storage."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from zlib_ng import zlib_ng

from preprocess.errors import DecodeError, InputError, UnreadError
from preprocess.inflate import inflate
from preprocess.storage import Place, Remote

_LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, length of name and of extra field
_EXTRA = 64  # bytes of an extra field: tools that pack write 0 to 28
_MOST_BYTES = 512 << 20  # of an encoded picture: more than any camera writes
# What `zipfile` raises on damaged lists of members.
_ZIP_ERRORS = (
    zipfile.BadZipFile, RuntimeError, ValueError, IndexError, struct.error, OSError, MemoryError,
    OverflowError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a source."""

    name: str  # path relative to the source, with slashes
    size: int  # in bytes, unpacked
    modified: float  # seconds since the epoch; of the zip itself for its members
    in_zip: bool = False
    offset: int = 0  # of the local header in the zip
    packed_size: int = 0
    method: int = zipfile.ZIP_STORED
    crc: int = 0

    def read(self, source: Place) -> bytes:
        """Return the file's bytes; a `DecodeError` if they are gone, damaged or too many."""
        if self.size > _MOST_BYTES:
            problem = f"holds {self.size:.3g} bytes, more than {_MOST_BYTES >> 20} MiB"
            raise DecodeError(source / self.name, problem, "Give a picture in a smaller format")
        if self.in_zip:
            return self._read_zip(source)
        path = source / self.name
        try:
            if isinstance(path, Remote):
                return path.read_range(0, self.size)
            return path.read_bytes()
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise UnreadError(source / self.name, problem, "Check the file") from None

    def _read_zip(self, archive: Place) -> bytes:
        # Not by `zipfile`: each worker would spend 6 s and 285 MB on the official zip's list.
        where = f"{archive}:{self.name}"
        if self.method not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            problem = f"is packed with zip method {self.method}"
            raise DecodeError(where, problem, "Zip with deflate or store")
        if isinstance(archive, Remote):  # not in `try`: what fails here fails for the whole zip
            with BytesIO(self._with_header(archive)) as file:
                return self._unpacked(file, 0, where)
        with archive.open("rb") as opened:
            return self._unpacked(opened, self.offset, where)

    def _with_header(self, archive: Remote) -> bytes:
        """Read the member and its header, in one request unless its extra field is a long one."""
        if self.offset < 0:
            return b""
        data = archive.read_range(self.offset, self.reach)
        _, name_length, extra_length = _LOCAL_HEADER.unpack_from(data)
        whole = _LOCAL_HEADER.size + name_length + extra_length + self.packed_size
        return data + archive.read_range(self.offset + len(data), max(0, whole - len(data)))

    @property
    def reach(self) -> int:
        """Bytes from the header on that hold the member, and that any whole zip has there."""
        return _LOCAL_HEADER.size + len(self.name) + _EXTRA + self.packed_size

    def _unpacked(self, file: BinaryIO, offset: int, where: str) -> bytes:
        try:
            if isinstance(file, BytesIO):
                size = len(file.getbuffer())
            else:
                size = os.fstat(file.fileno()).st_size
            if not (0 <= offset <= size and self.packed_size <= size):
                raise ValueError
            file.seek(offset)
            header = file.read(_LOCAL_HEADER.size)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
            file.seek(name_length + extra_length, os.SEEK_CUR)
            data = file.read(self.packed_size)
            if self.method == zipfile.ZIP_DEFLATED:
                data = inflate(data, self.size, raw=True)
            if (signature, len(data)) != (b"PK\3\4", self.size):
                raise ValueError
            if zlib_ng.crc32(data) != self.crc:
                raise ValueError
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise UnreadError(where, problem, "Check the zip") from None
        except (ValueError, struct.error):
            raise DecodeError(where, "is damaged in the zip", "Download it again") from None
        return data


def list_members(source: Place, keep: Callable[[str], bool]) -> list[tuple[str, Member]]:
    """List the files of a folder or zip whose name `keep` accepts, by path, folder by folder.

    A zip may hold a path twice.
    """
    if isinstance(source, Remote):
        found = _list_zip(source, keep) if source.exists() else _list_objects(source, keep)
    elif source.is_dir():
        found = _list_folder(source, keep)
    elif source.is_file():
        found = _list_zip(source, keep)
    else:
        raise InputError(source, "does not exist", "Give a folder or a zip file")
    return sorted(found, key=lambda item: item[0].replace("/", "\0"))


def _list_zip(archive: Place, keep: Callable[[str], bool]) -> Iterator[tuple[str, Member]]:
    try:
        with archive.open("rb", buffering=0 if isinstance(archive, Remote) else -1) as file:
            with zipfile.ZipFile(file) as opened:
                entries, stated = opened.infolist(), _stated_entries(file)
            modified, size = archive.stat().st_mtime, file.seek(0, os.SEEK_END)
            if len(entries) % (1 << 16) != stated:
                raise ValueError(f"its list has {len(entries)} files instead of {stated}")
    except InputError:  # storage that cannot be reached
        raise
    except _ZIP_ERRORS as error:
        raise InputError(archive, f"is no zip ({error})", "Give a folder or a whole zip") from None
    for entry in entries:
        if entry.filename and not entry.is_dir() and keep(entry.filename):
            member = Member(
                entry.filename, entry.file_size, modified, True, entry.header_offset,
                entry.compress_size, entry.compress_type, entry.CRC,
            )  # fmt: skip
            if isinstance(archive, Remote) and member.offset + member.reach > size:
                member = replace(member, offset=-1)  # a request for it would fail as a network does
            yield str(PurePosixPath(entry.filename)), member


def _stated_entries(file: BinaryIO) -> int:
    """Return how many entries a zip says that it has, modulo 65,536; `zipfile` does not ask."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - (1 << 16) - 200))  # a comment, and the records that end a large zip
    tail = file.read()
    zip64, at = tail.rfind(b"PK\6\6"), tail.rfind(b"PK\5\6")
    (count,) = struct.unpack_from("<H", tail, at + 10)
    if count == 0xFFFF and zip64 >= 0:
        (count,) = struct.unpack_from("<Q", tail, zip64 + 32)
    return int(count) % (1 << 16)


def _list_folder(root: Path, keep: Callable[[str], bool]) -> Iterator[tuple[str, Member]]:
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
                    yield name, Member(name, stat.st_size, stat.st_mtime)


def _list_objects(root: Remote, keep: Callable[[str], bool]) -> Iterator[tuple[str, Member]]:
    found = False
    for path, size, modified in root.walk():
        found, name = True, path.removeprefix(f"{root}/")
        if not any(part.startswith(".") for part in name.split("/")) and keep(name):
            yield name, Member(name, size, modified)
    if not found:
        remedy = "Give the URL of a zip, or of a folder with photographs and masks"
        raise InputError(root, "is no zip, and no object is below it", remedy)
