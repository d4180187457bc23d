"""Pack a source into shards. A shard is the unit of work, and its record commits it.

A worker packs a whole shard: it writes tar and index, then a record of what is in them. A later
run takes a shard as done if its record has the digest of the plan. So the bytes do not depend on
the number of workers, and a run that was killed loses the shards that it was packing, no others.
Slices of a plan may be packed at the same time, on several machines that share the folder; the run
of the whole plan that ends them finds their shards, and writes the manifest.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from preprocess.celebamask import SPLITS, Dropped, Plan, read_plan
from preprocess.encode import pack_sample
from preprocess.engine import by_workers
from preprocess.errors import DecodeError, InputError, UnreadError, require
from preprocess.files import (
    LOCK,
    MAX_MEGAPIXELS,
    atomic_file,
    file_sha256,
    from_fields,
    locked,
    remove_unfinished,
    unfinished,
)
from preprocess.manifest import MANIFEST_FILE, EyeCount, Manifest, PackSettings, SplitRecord
from preprocess.plan import PlannedShard, plan_shards
from preprocess.shards import ShardRecord, index_path, put_shard, record_path, writing
from preprocess.storage import Place, Remote, each

_PART = re.compile(r"eyes-[0-9]{6,}\.(tar|idx|json)")  # the names that packing gives


@dataclass(frozen=True)
class PackConfig:
    """What to pack, and where to."""

    source: Place  # folder or zip, or the URL of one, in a layout of `preprocess.celebamask`
    out: Place  # folder, or URL, for the shards and their manifest
    settings: PackSettings = field(default_factory=PackSettings)  # what decides the bytes
    split: str | None = None  # puts everything into this split, whatever the source's rule
    workers: int | None = None  # processes; None takes one a core; 1 works in this process
    overwrite: bool = False  # as `update`; also repacks shards that are damaged or lack a sample
    update: bool = False  # replaces a pack of other photographs or settings; what is the same stays
    max_megapixels: float = MAX_MEGAPIXELS  # larger photographs and masks are left out
    ray: str | None = None  # a Ray cluster's address, or "local"; None works by processes


@dataclass(frozen=True)
class PackReport:
    """What a run of `pack` did."""

    manifest: Manifest
    packed: int  # samples packed by this run; the rest was there already
    seconds: float


@dataclass(frozen=True)
class SliceReport:
    """What a run of `pack_slice` did."""

    shards: int  # of the slice; all of them are packed now
    packed: int  # samples packed by this run


@dataclass(frozen=True)
class PackedShard:
    """The record of a shard: what the manifest will say of it, and the digest of its plan."""

    digest: str
    shard: ShardRecord
    eyes: EyeCount
    dropped: tuple[Dropped, ...]
    empty_masks: tuple[str, ...]
    unread: int = 0  # how many of `dropped` another run should try again


def pack(config: PackConfig) -> PackReport:
    """Pack every sample of the source; continue where an earlier run, or slices, stopped.

    An `InputError` if the source cannot be read, or `out` holds another pack and `update` is off.
    """
    started = time.perf_counter()
    plan, shards = _plan(config)
    with locked(config.out):
        remove_unfinished(config.out, *(config.out / split for split in SPLITS))
        for lock in config.out.glob(_slice_lock("*", "*")):  # whoever held one would share ours
            lock.unlink()
        records, packed = _pack_missing(config, shards, shards)
        manifest = _manifest(config, plan, _fingerprint(shards), records)
        if not _is_saved(config.out, manifest):
            _remove_strays(config.out, manifest)
            manifest.save(config.out)
    return PackReport(manifest, packed, time.perf_counter() - started)


def pack_slice(config: PackConfig, number: int, count: int) -> SliceReport:
    """Pack slice `number`, 1 to `count`, of the plan: every `count`-th shard. Write no manifest.

    Slices may run at the same time, also on several machines that share `out`; `pack` ends them.
    An `InputError` as of `pack`, or if `out` is in use by a whole run, by the same slice, or by a
    slice of another count.
    """
    require(1 <= number <= count, "--slice", f"is {number}/{count}", "1/N to N/N, for example 3/16")
    _, shards = _plan(config)
    mine = shards[number - 1 :: count]
    names = {shard.name for shard in mine}
    with _slice_locked(config.out, number, count):
        for split in SPLITS:
            for path, name, _ in unfinished(config.out / split):
                if f"{split}/{Path(name).stem}.tar" in names:
                    path.unlink(missing_ok=True)
        _, packed = _pack_missing(config, shards, mine)
    return SliceReport(len(mine), packed)


def _plan(config: PackConfig) -> tuple[Plan, list[PlannedShard]]:
    plan = read_plan(config.source, config.split)
    shards = plan_shards(plan, config.settings)
    if isinstance(config.out, Path) and config.out.exists() and not config.out.is_dir():
        raise InputError(config.out, "is a file", "Give a folder as --out")
    return plan, shards


def _slice_lock(number: object, count: object) -> str:
    return f".lock.{number}-of-{count}"


@contextmanager
def _slice_locked(out: Place, number: int, count: int) -> Iterator[None]:
    """Keep out a whole run, the same slice, and slices of another count: those share shards."""
    own = _slice_lock(number, count)
    with locked(out, shared=True), locked(out, own):
        for other in out.glob(_slice_lock("*", "*")):
            if not fnmatchcase(other.name, _slice_lock("*", count)):
                with locked(out, other.name, shared=True):
                    pass
        yield


def _fingerprint(shards: list[PlannedShard]) -> str:
    return hashlib.sha256("".join(shard.digest for shard in shards).encode()).hexdigest()


def _pack_missing(
    config: PackConfig, shards: list[PlannedShard], mine: list[PlannedShard]
) -> tuple[list[PackedShard], int]:
    """Pack what is missing of some shards of a plan; return their records, and samples packed."""
    _check_target(config, _fingerprint(shards))
    found = each(config.out, partial(_finished, config), mine)
    records = {shard.name: record for shard, record in zip(mine, found, strict=True) if record}
    missing = [shard for shard in mine if shard.name not in records]
    if missing:
        (config.out / MANIFEST_FILE).unlink(missing_ok=True)
    for record in _pack_shards(config, missing):
        records[record.shard.name] = record
    packed = sum(records[shard.name].shard.samples for shard in missing)
    return [records[shard.name] for shard in mine], packed


def _check_target(config: PackConfig, fingerprint: str) -> None:
    path = config.out / MANIFEST_FILE
    if config.overwrite or config.update or not path.exists():
        return
    if Manifest.load(config.out).fingerprint != fingerprint:
        problem = "describes a pack of other photographs or other settings"
        raise InputError(path, problem, "Give another --out, or --update to pack what differs")


def _finished(config: PackConfig, planned: PlannedShard) -> PackedShard | None:
    """Return the record of a shard that is there, of this plan and not out of date."""
    path = config.out / planned.name
    try:
        known = from_fields(PackedShard, json.loads(record_path(path).read_bytes()))
        here, there = len(known.dropped) + known.shard.samples, len(planned.samples)
        if (known.digest, known.shard.name, here) != (planned.digest, planned.name, there):
            return None
        if known.unread:
            return None
        stat, index = path.stat(), file_sha256(index_path(path))
    except InputError:  # storage that cannot be reached
        raise
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    whole = stat.st_size == known.shard.bytes and index == known.shard.index_sha256
    if config.overwrite and whole:  # what was dropped may be readable by now
        whole = not known.dropped and file_sha256(path) == known.shard.sha256
    return known if whole and stat.st_mtime >= planned.modified else None


def _pack_shards(config: PackConfig, missing: list[PlannedShard]) -> Iterator[PackedShard]:
    """Pack shards and yield their records as they are done."""
    job = partial(
        pack_shard, config.source, config.out, config.settings, max_megapixels=config.max_megapixels
    )
    places = (config.source, config.out / LOCK)
    work = by_workers(job, missing, config.workers, config.ray, places)
    total = sum(len(shard.samples) for shard in missing)
    with tqdm(total=total, unit="img", desc="pack", disable=None, smoothing=0.05) as bar:
        for record in work:
            bar.update(record.shard.samples + len(record.dropped))
            yield record


def pack_shard(
    source: Place,
    out: Place,
    settings: PackSettings,
    planned: PlannedShard,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> PackedShard:
    """Pack one shard: tar, index and, last, the record that commits it.

    A shard of which no sample can be read leaves no file: readers need not meet an empty tar.
    """
    if isinstance(out, Remote):
        with TemporaryDirectory(prefix="eyes-") as folder:
            record = pack_shard(source, Path(folder), settings, planned, max_megapixels)
            put_shard(Path(folder, planned.name), out / planned.name)
        return record
    path, eyes = out / planned.name, EyeCount()
    dropped, empty, unread = list[Dropped](), list[str](), 0
    record_path(path).unlink(missing_ok=True)
    with writing(path) as add:
        for sample in planned.samples:
            try:
                packed = pack_sample(source, sample, settings, max_megapixels)
            except DecodeError as error:
                dropped.append(Dropped(sample.key, f"{error.where}: {error.problem}"))
                unread += isinstance(error, UnreadError)
                continue
            add(sample.key, packed.parts)
            eyes += packed.eyes
            empty += packed.empty_masks
    shard = ShardRecord.of(out, planned.name)
    record = PackedShard(planned.digest, shard, eyes, tuple(dropped), tuple(empty), unread)
    if shard.samples:
        with atomic_file(record_path(path), sync=False) as file:
            file.write(json.dumps(asdict(record), indent=1).encode() + b"\n")
    else:
        path.unlink()
        index_path(path).unlink()
    return record


def _manifest(
    config: PackConfig, plan: Plan, fingerprint: str, records: list[PackedShard]
) -> Manifest:
    splits = {}
    for split in SPLITS:
        mine = [record for record in records if record.shard.name.startswith(f"{split}/")]
        splits[split] = SplitRecord(
            sum(record.shard.samples for record in mine),
            sum((record.eyes for record in mine), EyeCount()),
            tuple(record.shard for record in mine if record.shard.samples),
        )
    return Manifest(
        settings=config.settings,
        source=config.source.name,
        fingerprint=fingerprint,
        split_rule=plan.split_rule,
        splits=splits,
        dropped=plan.dropped + tuple(row for record in records for row in record.dropped),
        empty_masks=tuple(sorted(name for record in records for name in record.empty_masks)),
        notes=plan.notes,
    )


def _is_saved(out: Place, manifest: Manifest) -> bool:
    try:
        return Manifest.load(out) == manifest
    except InputError:
        return False


def _remove_strays(out: Place, manifest: Manifest) -> None:
    """Delete shards that the manifest does not list, and nothing that has another name."""
    listed = {out / shard.name for shard in manifest.shards}
    for split in SPLITS:
        for path in (out / split).glob("eyes-*"):
            if _PART.fullmatch(path.name) and path.with_suffix(".tar") not in listed:
                path.unlink()
