"""WebDataset shards: deterministic tar files with DALI's index beside each.

A shard exists whole or not at all: it is written under a temporary name and renamed.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocess.errors import InputError
from preprocess.files import atomic_file

# First line of DALI's index: this version and the number of samples (wds2idx.py in DALI).
_INDEX_VERSION = "v1.2"
_BLOCK = 512
# Fields of a USTAR header (POSIX.1-1988, pax, "ustar Interchange Format").
_NAME_BYTES, _SIZE, _CHECKSUM = 100, slice(124, 135), slice(148, 155)
_EMPTY_HEADER = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
# The checksum counts its own field as spaces, and the size is added digit by digit.
_EMPTY_SUM = sum(_EMPTY_HEADER) - sum(_EMPTY_HEADER[148:156]) + 8 * 32 - sum(_EMPTY_HEADER[_SIZE])
_AHEAD_BYTES = 64 << 20  # shards of the default 1,024 samples have half of it


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest says of one shard."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class IndexEntry:
    """One line of an index: the key, and (extension, offset, size, name) of each component."""

    key: str
    components: tuple[tuple[str, int, int, str], ...]

    def line(self, extensions: Iterable[str] | None = None) -> str:
        """Format as DALI reads it, with all components or only some."""
        wanted = None if extensions is None else set(extensions)
        return " ".join(
            f"{extension} {offset} {size} {name}"
            for extension, offset, size, name in self.components
            if wanted is None or extension in wanted
        )


def shard_name(split: str, number: int) -> str:
    """Return the path of a shard relative to the pack's folder."""
    return f"{split}/eyes-{number:06d}.tar"


def index_path(shard: Path) -> Path:
    """Return the path of a shard's DALI index."""
    return shard.with_suffix(".idx")


def record_path(shard: Path) -> Path:
    """Return the path of a shard's record (see `preprocess.pack`)."""
    return shard.with_suffix(".json")


class ShardWriter:
    """Writes a shard and its index, sample by sample. A context: both exist once it exits.

    Parameters
    ----------
    path
        The shard.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._digest, self._bytes = path, hashlib.sha256(), 0
        self._lines: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        self._file = self._stack.enter_context(atomic_file(self._path))
        return self

    def add(self, key: str, parts: dict[str, bytes]) -> None:
        """Add a sample.

        Parameters
        ----------
        key
            Matches ``[a-z0-9_-]+``, because DALI takes everything after the first dot as the
            extension and splits index lines at spaces.
        parts
            Bytes by extension.
        """
        components = []
        for extension in sorted(parts):
            data, member = parts[extension], f"{key}.{extension}"
            self._put(_header(member, len(data)))
            components.append((extension, self._bytes, len(data), member))
            self._put(data)
            self._put(b"\0" * (-len(data) % _BLOCK))
        self._lines.append(IndexEntry(key, tuple(components)).line())

    def __exit__(self, *failed: Any) -> None:
        if failed[0] is None:
            self._put(b"\0" * (2 * _BLOCK))
        self._stack.__exit__(*failed)
        if failed[0] is None:
            self._index = format_index(self._lines)
            # Not synced, nor is the record: what a power cut damages is packed again.
            with atomic_file(index_path(self._path), sync=False) as file:
                file.write(self._index)

    def record(self, name: str) -> ShardRecord:
        """Say what was written; `name` is the shard's path relative to the pack's folder."""
        digest = hashlib.sha256(self._index).hexdigest()
        return ShardRecord(name, len(self._lines), self._bytes, self._digest.hexdigest(), digest)

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)
        self._bytes += len(data)


def write_shard(
    root: Path, name: str, samples: Iterable[tuple[str, dict[str, bytes]]]
) -> ShardRecord:
    """Write a shard of (key, {extension: bytes}) to `name`, relative to `root`."""
    with ShardWriter(root / name) as writer:
        for key, parts in samples:
            writer.add(key, parts)
    return writer.record(name)


def _header(name: str, size: int) -> bytes:
    """Return a USTAR header that depends on nothing but name and size (DALI does not read PAX).

    If the name is short, name, size and checksum are filled into a ready-made `tarfile` header,
    which takes a tenth of the time.
    """
    path = name.encode("ascii")
    if len(path) > _NAME_BYTES or size >= 8**11:
        info = tarfile.TarInfo(name)
        info.size = size
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    header = bytearray(_EMPTY_HEADER)
    header[: len(path)] = path
    header[_SIZE] = b"%011o" % size
    header[_CHECKSUM] = b"%06o\0" % (_EMPTY_SUM + sum(path) + sum(header[_SIZE]))
    return bytes(header)


def format_index(lines: Sequence[str]) -> bytes:
    """Join index lines to the bytes of an index file."""
    return join_index([line.encode("ascii") for line in lines])


def join_index(lines: Sequence[bytes]) -> bytes:
    """Join encoded index lines to the bytes of an index file."""
    return b"\n".join([f"{_INDEX_VERSION} {len(lines)}".encode(), *lines, b""])


@dataclass(frozen=True)
class ShardIndex:
    """The index of a shard, its lines unparsed: a line costs its bytes, an entry ten times that.

    Raises
    ------
    InputError
        If a line that is asked for is damaged.
    """

    shard: Path
    lines: tuple[bytes, ...]

    @classmethod
    def read(cls, shard: Path) -> ShardIndex:
        """Read the index beside a shard.

        Raises
        ------
        InputError
            If it is missing, of another kind, or cut off.
        """
        path = index_path(shard)
        try:
            first, *lines = path.read_bytes().splitlines()
            version, count = first.split()
            if version != _INDEX_VERSION.encode() or int(count) != len(lines):
                raise ValueError
        except FileNotFoundError:
            raise InputError(path, "is missing", "Pack again: `make shards`") from None
        except ValueError:
            raise _no_index(path) from None
        return cls(shard, tuple(lines))

    def entry(self, row: int) -> IndexEntry:
        """Parse a line."""
        try:
            return _parse_line(self.lines[row].decode("ascii"))
        except ValueError:
            raise _no_index(index_path(self.shard)) from None

    def key(self, row: int) -> str:
        """Return the key of a line, without parsing the rest."""
        fields = self.lines[row].split(b" ", 4)
        if len(fields) < 4:
            raise _no_index(index_path(self.shard))
        return fields[3].partition(b".")[0].decode("ascii", "replace")


def _no_index(path: Path) -> InputError:
    return InputError(path, "is no DALI index", "Pack again with --overwrite")


def read_index(shard: Path) -> list[IndexEntry]:
    """Read the index beside a shard.

    Raises
    ------
    InputError
        If it is missing or damaged.
    """
    index = ShardIndex.read(shard)
    return [index.entry(row) for row in range(len(index.lines))]


def _parse_line(line: str) -> IndexEntry:
    fields = line.split()
    if not fields or len(fields) % 4:
        raise ValueError(line)
    components = tuple(
        (fields[at], int(fields[at + 1]), int(fields[at + 2]), fields[at + 3])
        for at in range(0, len(fields), 4)
    )
    return IndexEntry(components[0][3].partition(".")[0], components)


def read_samples(
    shard: Path, entries: Iterable[IndexEntry] | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {extension: bytes}) of a shard, of all samples or of those in `entries`."""
    with shard.open("rb") as file:
        for entry in read_index(shard) if entries is None else entries:
            parts = {}
            for extension, offset, size, _ in entry.components:
                file.seek(offset)
                parts[extension] = file.read(size)
            yield entry.key, parts


def read_ahead(shard: Path) -> None:
    """Ask the system, where it can be asked, to read a shard into its cache in one sweep.

    Shuffled samples are read one by one from all over the shard. From a cold disk that takes
    seconds per shard; one sweep takes tenths of a second.
    """
    if hasattr(os, "posix_fadvise"):
        # Only a hint: if the file is gone, the later read reports it.
        with suppress(OSError), shard.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
