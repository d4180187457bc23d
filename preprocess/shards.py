"""WebDataset shards: deterministic tar files with DALI's index beside each.

A shard exists whole or not at all: it is written under a temporary name and renamed.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from preprocess.errors import InputError
from preprocess.files import atomic_file, file_sha256
from preprocess.storage import Place, Remote

# First line of DALI's index: this version and the number of samples (wds2idx.py in DALI).
_INDEX_VERSION = "v1.2"
_NAME = re.compile(r"(train|val|test)/eyes-[0-9]{6,}\.tar")
_AHEAD_BYTES = 64 << 20  # shards of the default 1,024 samples have half of it


@dataclass(frozen=True)
class ShardRecord:
    """What the manifest says of one shard."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    def __post_init__(self) -> None:
        """Check what a record from elsewhere could abuse."""
        if not _NAME.fullmatch(self.name) or min(self.samples, self.bytes) < 0:
            raise ValueError(f"a shard is {self.name!r} of {self.samples} samples")

    @classmethod
    def of(cls, root: Path, name: str) -> ShardRecord:
        """Describe the shard that is at `name`, relative to the pack's folder."""
        path = root / name
        samples, size = len(ShardIndex.read(path).lines), path.stat().st_size
        return cls(name, samples, size, file_sha256(path), file_sha256(index_path(path)))


@dataclass(frozen=True)
class IndexEntry:
    """One line of an index: the key, and (extension, offset, size, name) of each component."""

    key: str
    components: tuple[tuple[str, int, int, str], ...]


def index_path(shard: Place) -> Place:
    """Return the path of a shard's DALI index."""
    return shard.with_suffix(".idx")


def record_path(shard: Place) -> Place:
    """Return the path of a shard's record (see `preprocess.pack`)."""
    return shard.with_suffix(".json")


@contextmanager
def writing(path: Path) -> Iterator[Callable[[str, dict[str, bytes]], None]]:
    """Write a shard and its index: a context whose value adds a sample, key and bytes by extension.

    A key matches ``[a-z0-9_-]+``, because DALI takes everything after the first dot as the
    extension and splits index lines at spaces.
    """
    lines = [""]

    def add(key: str, parts: dict[str, bytes]) -> None:
        fields = []
        for extension, data in sorted(parts.items()):
            header = tarfile.TarInfo(f"{key}.{extension}")
            header.size = len(data)
            # USTAR: DALI does not read PAX.
            file.write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
            fields.append(f"{extension} {file.tell()} {len(data)} {header.name}")
            file.write(data + bytes(-len(data) % tarfile.BLOCKSIZE))
        lines.append(" ".join(fields))

    with atomic_file(path) as file:
        yield add
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    lines[0] = f"{_INDEX_VERSION} {len(lines) - 1}"
    # Not synced, nor is the record: what a power cut damages is packed again.
    with atomic_file(index_path(path), sync=False) as index:
        index.write("\n".join([*lines, ""]).encode("ascii"))


@contextmanager
def local_copy(shard: Place) -> Iterator[Path]:
    """Return a shard that has its index beside it: a copy of those elsewhere, if they exist."""
    if isinstance(shard, Path):
        yield shard
        return
    with TemporaryDirectory(prefix="eyes-") as folder:
        for there in (shard, shard.with_suffix(".idx")):
            if there.exists():
                Path(folder, there.name).write_bytes(there.read_bytes())
        yield Path(folder, shard.name)


def put_shard(here: Path, there: Remote) -> None:
    """Put the tar, the index and, last, the record; delete what is not here (no samples)."""
    record_path(there).unlink()
    for suffix in (".tar", ".idx", ".json"):
        if here.with_suffix(suffix).exists():
            there.with_suffix(suffix).put(here.with_suffix(suffix))
        else:
            there.with_suffix(suffix).unlink()


@dataclass(frozen=True)
class ShardIndex:
    """The index of a shard, its lines unparsed: a line costs its bytes, an entry ten times that.

    A damaged index is an `InputError`: a damaged line, once it is asked for.
    """

    shard: Place
    lines: tuple[bytes, ...]
    bytes: int  # of the shard

    @classmethod
    def read(cls, shard: Place) -> ShardIndex:
        """Read the index beside a shard."""
        path = index_path(shard)
        try:
            first, *lines = path.read_bytes().splitlines()
            version, count = first.split()
            if version != _INDEX_VERSION.encode() or int(count) != len(lines):
                raise ValueError
            return cls(shard, tuple(lines), shard.stat().st_size)
        except FileNotFoundError as error:
            raise InputError(error.filename, "is missing", "Pack again: `make shards`") from None
        except InputError:  # storage that cannot be reached
            raise
        except ValueError:
            raise _no_index(shard) from None

    def entry(self, row: int) -> IndexEntry:
        """Parse a line."""
        try:
            fields = self.lines[row].decode("ascii").split()
            components = tuple(
                (extension, int(offset), int(size), name)
                for extension, offset, size, name in zip(*[iter(fields)] * 4, strict=True)
            )
            for _, offset, size, _ in components:
                if min(offset - tarfile.BLOCKSIZE, size, self.bytes - offset - size) < 0:
                    raise ValueError("beyond the shard")
            return IndexEntry(components[0][3].partition(".")[0], components)
        except (ValueError, IndexError):
            raise _no_index(self.shard) from None

    def key(self, row: int) -> str:
        """Return the key of a line."""
        return self.entry(row).key


def _no_index(shard: Place) -> InputError:
    return InputError(index_path(shard), "is no DALI index", "Pack again with --overwrite")


def read_samples(shard: Place) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, {extension: bytes}) of a shard's samples, by its index."""
    with shard.open("rb") as file:
        index = ShardIndex.read(shard)
        for entry in map(index.entry, range(len(index.lines))):
            parts = {}
            for extension, offset, size, _ in entry.components:
                file.seek(offset)
                parts[extension] = file.read(size)
            yield entry.key, parts


def read_ahead(shard: Place) -> None:
    """Ask the system, where it can be asked, to read a shard into its cache in one sweep.

    Shuffled samples are read one by one from all over the shard. From a cold disk that takes
    seconds per shard; one sweep takes tenths of a second.
    """
    if isinstance(shard, Path) and hasattr(os, "posix_fadvise"):
        # Only a hint: if the file is gone, the later read reports it.
        with suppress(OSError), shard.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
