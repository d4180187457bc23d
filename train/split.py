"""A split of one or several packs: samples by number, their order in an epoch, bytes and eyes.

Samples are numbered through packs and shards. The order of an epoch is a pure function of pack,
seed and epoch: every decoder gives the same batches, a resumed run needs no state, and processes
share the batches that one would see. Shuffling permutes the shards, and the samples of some shards
together (packing has already mixed them), so reading stays local. Keys, places and eyes are read
from a shard when its turn comes: start-up and memory hardly depend on the number of samples.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from io import FileIO
from itertools import islice

import numpy as np
import numpy.typing as npt

from preprocess.errors import InputError
from preprocess.files import file_sha256
from preprocess.manifest import Manifest
from preprocess.shards import IndexEntry, ShardIndex, ShardRecord, index_path, read_ahead
from preprocess.storage import Place, Remote, each

Rows = npt.NDArray[np.int32]
Centres = npt.NDArray[np.float32]

_AGAIN = "Pack again: `make shards`"
_MIXED = 4096  # samples that an epoch shuffles as one: a few shards
_KEPT_LINES = 4 * _MIXED  # of indexes: what is read now, and what is read ahead
_HEADER = 512  # bytes of a tar header
# Where CelebA-HQ's alignment puts the eyes, as shares of the side; for pictures that show none.
_USUAL = ((0.37, 0.48), (0.63, 0.48))


@dataclass(frozen=True)
class Encoded:
    """A sample as it is packed; `name` says where it is, for messages."""

    name: str
    jpg: bytes
    png: bytes


@dataclass(frozen=True)
class Pack:
    """A pack's part of a split."""

    name: str
    samples: int
    weight: float = 1.0  # how often an epoch shows each sample, in the mean


@dataclass(frozen=True)
class Split:
    """The samples of one split of a pack, or of several packs with pictures of one size."""

    name: str  # train, val or test
    size: int  # side of the pictures in pixels
    shards: tuple[tuple[Place, int], ...]  # in the manifests' order, with the samples in each
    packs: tuple[Pack, ...]
    checksums: tuple[str, ...] = ()  # of the shards; empty if they are not verified
    _indexes: dict[int, ShardIndex] = field(default_factory=dict, compare=False, repr=False)
    _eyes: dict[int, Centres] = field(default_factory=dict, compare=False, repr=False)
    _found: dict[int, Future[str]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, root: Place, name: str, verify: bool = True) -> Split:
        """Read the manifest of a split; an `InputError` if a shard or index is not what it says.

        With `verify` the bytes of an index are compared here, those of a shard when it is read.
        """
        manifest = Manifest.load(root)
        records = manifest.split(name).shards
        for _ in each(root, partial(_check_shard, root, verify), records):
            pass
        shards = tuple((root / record.name, record.samples) for record in records)
        checksums = tuple(record.sha256 for record in records) if verify else ()
        pack = Pack(root.resolve().name, sum(record.samples for record in records))
        return cls(name, manifest.settings.size, shards, (pack,), checksums)

    @classmethod
    def open_all(
        cls, roots: Sequence[Place], name: str, verify: bool = True, weights: Sequence[float] = ()
    ) -> Split:
        """Open a split of several packs as one; an `InputError` if their pictures differ in size.

        `weights` says how often an epoch shows each pack's samples; empty: once.
        """
        parts = [cls.open(root, name, verify) for root in roots]
        for root, part in zip(roots, parts, strict=True):
            if part.size != parts[0].size:
                problem = f"holds {part.size}-pixel squares, {roots[0]} {parts[0].size}"
                raise InputError(root, problem, "Pack both with the same --size")
        packs = [
            replace(part.packs[0], weight=weight)
            for part, weight in zip(parts, weights or [1.0] * len(parts), strict=True)
        ]
        shards, checksums = (
            tuple(one for part in parts for one in getattr(part, of))
            for of in ("shards", "checksums")
        )
        return cls(name, parts[0].size, shards, tuple(packs), checksums)

    def verify(self, wait: bool = True) -> None:
        """Raise an `InputError` if a shard that has been read is not the one that was packed.

        Without `wait`, only what has been computed by now is looked at.
        """
        for shard, found in self._found.items():
            if (wait or found.done()) and found.result() != self.checksums[shard]:
                problem = "has changed since it was packed (its checksum is another)"
                raise InputError(self.shards[shard][0], problem, f"{_AGAIN}, or try --verify off")

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """The number of each shard's first sample and, last, of all samples."""
        return np.cumsum([0, *(count for _, count in self.shards)])

    @property
    def samples(self) -> int:
        """Number of samples."""
        return int(self._starts[-1])

    def pack_of(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return the number of each sample's pack."""
        ends = np.cumsum([pack.samples for pack in self.packs])
        return np.searchsorted(ends, rows, side="right")

    def shuffled(self, batch: int, seed: int, epoch: int) -> Rows:
        """Return the samples of an epoch of training, steps x batch; incomplete batches are out.

        `batch` counts the samples in a step of all processes together. An `InputError` if there
        are not enough for one step.
        """
        rng = np.random.default_rng((*b"order", seed, epoch))
        order = rng.permutation(len(self.shards))
        rows = np.concatenate([self._shown(int(shard), rng) for shard in order])
        for at in range(0, len(rows), _MIXED):
            rng.shuffle(rows[at : at + _MIXED])
        steps = len(rows) // batch
        if not steps:
            problem = f"is {batch}, but an epoch of {self.name!r} has {len(rows)} samples"
            raise InputError("--batch", problem, "Give a smaller batch")
        return rows[: steps * batch].reshape(steps, batch)

    def _shown(self, shard: int, rng: np.random.Generator) -> Rows:
        """Return the samples of a shard, as often as an epoch shows them."""
        rows = np.arange(self._starts[shard], self._starts[shard + 1], dtype=np.int32)
        share, times = math.modf(self.packs[self.pack_of(rows[:1])[0]].weight)
        some = round(share * len(rows))
        shown = np.tile(rows, int(times))
        return np.concatenate([shown, rng.permutation(rows)[:some]]) if some else shown

    def in_order(self, batch: int, rank: int = 0, world: int = 1) -> list[Rows]:
        """Return the batches of an evaluation: each sample once, the last batch may be smaller."""
        mine = np.array_split(np.arange(self.samples, dtype=np.int32), world)[rank]
        return [mine[at : at + batch] for at in range(0, len(mine), batch)]

    def keys(self, rows: Rows) -> list[str]:
        """Return the keys of samples; of several packs, with the pack's name."""
        keys = [self._index(shard).key(line) for shard, line in self._places(rows)]
        if len(self.packs) == 1:
            return keys
        packs = self.pack_of(rows).tolist()
        return [f"{self.packs[pack].name}/{key}" for pack, key in zip(packs, keys, strict=True)]

    def read(self, rows: Rows) -> Iterator[Encoded]:
        """Read photographs and label maps; an `InputError` if something else is in their place."""
        self.verify(wait=False)
        with ExitStack() as stack:
            files: dict[int, FileIO] = {}
            for shard, line in self._places(rows):
                if shard not in files:
                    path = self.shards[shard][0]
                    files[shard] = stack.enter_context(path.open("rb", buffering=0))
                index = self._index(shard)
                yield _read_sample(files[shard], index.shard, index.entry(line))

    def read_batches(self, batches: Sequence[Rows]) -> Iterator[list[Encoded]]:
        """Read batches; from object storage, where a sample is a request, many samples ahead."""
        far = next((path for path, _ in self.shards if isinstance(path, Remote)), None)
        if far is None:
            yield from (list(self.read(rows)) for rows in batches)
            return
        places = (place for rows in batches for place in self._places(rows))
        entries = ((self._index(shard), line) for shard, line in places)
        samples = each(far, _read_alone, entries)
        for rows in batches:
            self.verify(wait=False)
            yield list(islice(samples, len(rows)))

    def eyes(self, rows: Rows) -> Centres:
        """Return x and y in pixels of both eyes of samples, N x 2 x 2 float32.

        Of one eye, twice the same; if there is none, where eyes usually are. An `InputError` if a
        sample does not say where its eyes are.
        """
        found = np.empty((len(rows), 2, 2), np.float32)
        for place, (shard, line) in enumerate(self._places(rows)):
            if shard not in self._eyes:
                self._eyes[shard] = _read_eyes(self._index(shard), self.size)
            found[place] = self._eyes[shard][line]
        return found

    def _places(self, rows: Rows) -> Iterator[tuple[int, int]]:
        """Return each sample's shard and its line in the shard's index."""
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        return zip(shards.tolist(), (rows - self._starts[shards]).tolist(), strict=True)

    def _index(self, shard: int) -> ShardIndex:
        """Read the index of a shard whose turn has come, or take it from the last few."""
        if shard not in self._indexes:
            path = self.shards[shard][0]
            read_ahead(path)
            if self.checksums and shard not in self._found:
                self._found[shard] = _hashed(path)
            while sum(len(index.lines) for index in self._indexes.values()) > _KEPT_LINES:
                del self._indexes[next(iter(self._indexes))]
            self._indexes[shard] = ShardIndex.read(path)
        return self._indexes[shard]


def _hashed(path: Place) -> Future[str]:
    """Compute a checksum beside the decoding: hashlib lets go of Python's lock.

    No pool: one whose first thread is being started when a Ctrl-C comes keeps its process for ever.
    """
    found: Future[str] = Future()

    def run() -> None:
        try:
            found.set_result(file_sha256(path))
        except BaseException as error:  # raised again by whoever asks for the result
            found.set_exception(error)

    threading.Thread(target=run, name="verify", daemon=True).start()
    return found


def _check_shard(root: Place, verify: bool, record: ShardRecord) -> None:
    path = root / record.name
    if not path.exists():
        raise InputError(path, "is missing", _AGAIN)
    index = ShardIndex.read(path)
    if len(index.lines) != record.samples or index.bytes != record.bytes:
        raise InputError(path, "differs from the manifest", _AGAIN)
    if verify and file_sha256(index_path(path)) != record.index_sha256:
        raise InputError(index_path(path), "differs from the manifest", _AGAIN)


def _read_alone(found: tuple[ShardIndex, int]) -> Encoded:
    index, line = found
    with index.shard.open("rb", buffering=0) as file:
        return _read_sample(file, index.shard, index.entry(line))


def _read_sample(file: FileIO, shard: Place, entry: IndexEntry) -> Encoded:
    """Read the members of a sample in one go; the tar's own names must be those of the index."""
    first = min(offset for _, offset, _, _ in entry.components) - _HEADER
    file.seek(first)
    data = file.read(max(offset + size for _, offset, size, _ in entry.components) - first)
    parts = {}
    for extension, offset, size, member in entry.components:
        at = offset - first
        there = data[at - _HEADER : at - _HEADER + 100].rstrip(b"\0").decode("ascii", "replace")
        if not there == member == f"{entry.key}.{extension}":
            problem = f"has {there!r} where its index has {entry.key!r}, {extension}"
            raise InputError(shard, problem, _AGAIN)
        parts[extension] = data[at : at + size]
    for extension in ("jpg", "png"):
        if extension not in parts:
            raise InputError(shard, f"sample {entry.key!r} has no {extension}", _AGAIN)
    return Encoded(f"{shard}, sample {entry.key}", parts["jpg"], parts["png"])


def _read_eyes(index: ShardIndex, size: int) -> Centres:
    """Read the centres of the eyes from the metadata of a shard's samples."""
    usual = [[x * size, y * size] for x, y in _USUAL]
    found = []
    with index.shard.open("rb", buffering=_HEADER) as file:  # an object, whole
        for row in range(len(index.lines)):
            entry = index.entry(row)
            try:
                _, offset, length, _ = next(c for c in entry.components if c[0] == "json")
                file.seek(offset)
                eyes = json.loads(file.read(length))["eyes"] or usual
                found.append(np.array([eyes[0], eyes[-1]], np.float32).reshape(2, 2))
            except (StopIteration, ValueError, KeyError, TypeError, IndexError):
                problem = f"sample {entry.key!r} does not say where its eyes are"
                remedy = f"{_AGAIN}, or train with --augment crop=off --augment hide=off"
                raise InputError(index.shard, problem, remedy) from None
    return np.stack(found)
