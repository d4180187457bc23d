"""The data sets as they are on disk: samples, masks and splits, read from a folder or a zip.

Two layouts are known. The official one of CelebAMask-HQ (Lee et al., CVPR 2020)::

    CelebA-HQ-img/{i}.jpg
    CelebAMask-HQ-mask-anno/{i // 2000}/{i:05d}_{part}.png
    CelebA-HQ-to-CelebA-mapping.txt

and, for everybody's own photographs, pairs of one picture and one mask of both eyes::

    images/{name}.jpg
    eye_masks/{name}.png  (or masks/{name}.png)
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from preprocess.archive import Member, list_members
from preprocess.errors import InputError
from preprocess.storage import Place

IMAGE_FOLDER = "CelebA-HQ-img"
MASK_FOLDER = "CelebAMask-HQ-mask-anno"
MAPPING_FILE = "CelebA-HQ-to-CelebA-mapping.txt"
EYES = ("l_eye", "r_eye")
SPLITS = ("train", "val", "test")

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_NUMBER = re.compile(r"[0-9]{1,9}")
_MASK_NAME = re.compile(rf"({_NUMBER.pattern})_(l_eye|r_eye)\.png")
# CelebA's own partition file puts these ranges of orig_idx into train, val and test.
FIRST_VAL, FIRST_TEST = 162_770, 182_637
_LONGEST_KEY = 87  # a tar header holds names of 100 bytes, extension included


@dataclass(frozen=True, slots=True)
class RawSample:
    """One photograph of the source and where its masks are; nothing is read yet."""

    key: str
    split: str
    image: Member
    masks: dict[str, Member]

    @property
    def members(self) -> tuple[Member, ...]:
        """The image and its masks, in a fixed order."""
        return (self.image, *(self.masks[part] for part in sorted(self.masks)))


@dataclass(frozen=True)
class Dropped:
    """Something that was not packed, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a source holds."""

    source: Place
    samples: tuple[RawSample, ...]
    dropped: tuple[Dropped, ...] = ()
    split_rule: str = "official"
    notes: tuple[str, ...] = ()


def read_plan(source: Place, split: str | None = None) -> Plan:
    """List the samples of a folder or zip in one of the two layouts, without reading a picture.

    With `split`, every sample is put into that split. An `InputError` if the path is missing or
    holds neither layout.
    """
    members, dropped = _with_names(list_members(source, _is_wanted))
    if any(IMAGE_FOLDER in name.split("/") for name, _ in members):
        plan = _plan_official(source, members, dropped)
    elif any("images" in name.split("/") for name, _ in members):
        plan = _plan_pairs(source, members, dropped)
    else:
        remedy = f"Give the folder with {IMAGE_FOLDER}/ and {MASK_FOLDER}/ in it, or its zip"
        raise InputError(source, f"holds neither {IMAGE_FOLDER}/ nor images/", remedy)
    if not plan.samples:
        problem = "holds no image that can be packed"
        if plan.dropped:
            row = plan.dropped[0]
            problem += f" ({len(plan.dropped)} left out; the first, {row.key}: {row.reason})"
        raise InputError(source, problem, "Check that the download is complete")
    if split is not None:
        samples = tuple(replace(sample, split=split) for sample in plan.samples)
        plan = replace(plan, samples=samples, split_rule=f"all {split}", notes=())
    return plan


def _is_wanted(name: str) -> bool:
    """Skip the masks of the other 17 parts: nine files in ten of the full set."""
    if name.startswith("__MACOSX/"):
        return False
    return f"{MASK_FOLDER}/" not in name or name.endswith(("_l_eye.png", "_r_eye.png"))


def _with_names(
    found: list[tuple[str, Member]],
) -> tuple[list[tuple[str, Member]], list[Dropped]]:
    """Leave out what has a name that cannot be written down."""
    members, dropped = [], []
    for path, member in found:
        try:
            path.encode()
            members.append((path, member))
        except UnicodeEncodeError:
            name = path.encode(errors="surrogateescape").decode(errors="backslashreplace")
            dropped.append(Dropped(name.rpartition("/")[2], "its name is not UTF-8"))
    return members, dropped


def split_of_orig_idx(orig_idx: int) -> str:
    """Return the split of CelebA's own partition: train, val or test."""
    return SPLITS[bisect_right((FIRST_VAL, FIRST_TEST), orig_idx)]


def split_of_key(key: str) -> str:
    """Return a stable 80/10/10 split by hash, for sets without an official one."""
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
    return SPLITS[bisect_right((0.8, 0.9), share)]


def _plan_official(
    source: Place, members: list[tuple[str, Member]], dropped: list[Dropped]
) -> Plan:
    images: dict[int, Member] = {}
    masks: dict[int, dict[str, Member]] = {}
    mapping: dict[str, Member] = {}
    for path, member in members:
        name = PurePosixPath(path)  # one at a time: it takes more memory than all else
        if name.parent.name == IMAGE_FOLDER and name.suffix.lower() in _IMAGE_SUFFIXES:
            if _NUMBER.fullmatch(name.stem):
                number = int(name.stem)
                _take(images, number, member, f"{number:05d}", dropped)
            else:
                dropped.append(Dropped(name.name, "image name is not a number"))
        elif MASK_FOLDER in name.parts and (match := _MASK_NAME.fullmatch(name.name)):
            number = int(match[1])
            _take(masks.setdefault(number, {}), match[2], member, f"{number:05d}", dropped)
        elif name.name == MAPPING_FILE:
            _take(mapping, MAPPING_FILE, member, MAPPING_FILE, dropped)
    if not masks:
        problem = f"has images but no eye mask under {MASK_FOLDER}/"
        raise InputError(source, problem, "Check the download")
    for number in sorted(masks.keys() - images.keys()):
        dropped.append(Dropped(f"{number:05d}", f"mask without an image ({number}.jpg is missing)"))
    splits = _read_mapping(source, mapping[MAPPING_FILE]) if mapping else None
    samples = []
    for number in sorted(images):
        key = f"{number:05d}"
        split = split_of_key(key) if splits is None else splits.get(number)
        if split:
            samples.append(RawSample(key, split, images[number], masks.get(number, {})))
        else:
            dropped.append(Dropped(key, f"not listed in {MAPPING_FILE}"))
    if splits is not None:
        return Plan(source, tuple(samples), tuple(dropped))
    note = f"no {MAPPING_FILE}: split 80/10/10 by a hash of the id, not by the official rule"
    return Plan(source, tuple(samples), tuple(dropped), "hash", (note,))


def _take(
    found: dict[Any, Member], key: object, member: Member, name: str, dropped: list[Dropped]
) -> None:
    """Note a member under its key; a later one of the same key is left out."""
    first = found.setdefault(key, member)
    if first is not member:
        reason = f"{member.name} has the id of {first.name}, which was taken"
        dropped.append(Dropped(name, reason))


def _read_mapping(source: Place, member: Member) -> dict[int, str]:
    """Read `idx orig_idx orig_file` lines to the split of each idx."""
    splits: dict[int, str] = {}
    lines = member.read(source).decode("ascii", "replace").splitlines()
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0] == "idx":
            continue
        where = f"{source / member.name}, line {number}"
        if len(fields) < 2 or not all(map(_NUMBER.fullmatch, fields[:2])):
            raise InputError(where, f"reads {line!r:.80}", "Expected `idx orig_idx orig_file`")
        split = split_of_orig_idx(int(fields[1]))
        if splits.setdefault(int(fields[0]), split) != split:
            problem = f"puts {int(fields[0])} into {split}, a line before it into another split"
            raise InputError(where, problem, "Keep the line that is right")
    return splits


def _plan_pairs(source: Place, members: list[tuple[str, Member]], dropped: list[Dropped]) -> Plan:
    images: dict[str, Member] = {}
    masks: dict[str, Member] = {}
    folders = {"images": images, "eye_masks": masks, "masks": masks}
    for path, member in members:
        name = PurePosixPath(path)
        if name.parent.name in folders and name.suffix.lower() in _IMAGE_SUFFIXES:
            _take(folders[name.parent.name], name.stem, member, name.stem, dropped)
    for stem in sorted(masks.keys() - images.keys()):
        dropped.append(Dropped(stem, f"mask without an image (images/{stem}.* is missing)"))
    samples: dict[str, RawSample] = {}
    for stem in sorted(images):
        key = _key(stem)
        if stem not in masks:
            dropped.append(Dropped(stem, "image without a mask (a black mask means no eye)"))
        elif key in samples:
            dropped.append(Dropped(stem, f"its key {key!r} is taken by {samples[key].image.name}"))
        else:
            samples[key] = RawSample(key, split_of_key(key), images[stem], {"eye": masks[stem]})
    note = "pairs of images and masks: split 80/10/10 by a hash of the name"
    return Plan(source, tuple(samples.values()), tuple(dropped), "hash", (note,))


def _key(stem: str) -> str:
    """Return a name for tar, DALI and people: ASCII without dots or spaces, at most 87 long."""
    key = re.sub(r"[^a-z0-9_-]+", "-", stem.lower())
    if stem.isascii() and len(key) <= _LONGEST_KEY:
        return key
    return f"{key[:70]}-{hashlib.sha256(stem.encode()).hexdigest()[:16]}"
