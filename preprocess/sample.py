"""Made-up faces in the layout of CelebAMask-HQ: nothing to download, and exact masks.

A face is a pure function of (seed, index). `write_sample` writes a set of them as the official
archive is laid out, so whatever reads CelebAMask-HQ reads it too.
"""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from tqdm import tqdm

from preprocess.celebamask import IMAGE_FOLDER, MAPPING_FILE, MASK_FOLDER, SPLITS
from preprocess.drawn.camera import paint_glasses, photograph
from preprocess.drawn.eye import paint_eyes
from preprocess.drawn.face import draw_head
from preprocess.drawn.look import Look
from preprocess.errors import InputError
from preprocess.runtime import end_with_parent, usable_cores

_DRAWER = 2  # raise it if the same seed draws other pictures: old samples are then redrawn
_SETTINGS_FILE = "sample.json"
_FIRST_ORIG_IDX = (0, 162_770, 182_637)  # of CelebA's train, val and test


@dataclass(frozen=True)
class SampleConfig:
    """Settings of a sample.

    Parameters
    ----------
    count
        Number of faces, 1 to 99999.
    seed
        Seed of the whole set, 0 or more.
    size
        Side of the pictures in pixels, 64 to 4096.
    mask_size
        Side of the masks in pixels, 16 to `size`.

    Raises
    ------
    InputError
        If a value is outside its range.
    """

    count: int = 400
    seed: int = 0
    size: int = 1024
    mask_size: int = 512

    def __post_init__(self) -> None:
        """Check every range."""
        _check("count", self.count, 1, 99_999)
        _check("seed", self.seed, 0, 2**63 - 1)
        _check("size", self.size, 64, 4096)
        _check("mask_size", self.mask_size, 16, self.size)


@dataclass(frozen=True)
class Face:
    """One drawn face.

    Attributes
    ----------
    image
        (size, size, 3) uint8, RGB.
    parts
        (mask_size, mask_size) bool for each visible part of `l_eye`, `r_eye` and `eye_g` (glasses).
        `l_eye` is the subject's left eye, on the viewer's right. A part out of sight has no key.
    """

    image: npt.NDArray[np.uint8]
    parts: dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class SampleReport:
    """What `write_sample` did: faces in the sample, faces written now, faces of each split."""

    count: int
    written: int
    splits: dict[str, int]


def _check(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is no integer from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(name, f"is {value!r}", f"Expected an integer from {low} to {high}")


def draw_face(index: int, config: SampleConfig) -> Face:
    """Draw one face, a pure function of (seed, index) and the two sizes.

    Parameters
    ----------
    index
        Number of the face, 0 or more.
    config
        Settings; `count` plays no part.

    Returns
    -------
    Face
        The picture and the masks of its visible parts.

    Raises
    ------
    InputError
        If index is negative.
    """
    _check("index", index, 0, 2**63 - 1)
    rng = np.random.default_rng((config.seed, index))
    look = Look(rng, config.size)
    image, cover = draw_head(rng, look)
    right, left = paint_eyes(rng, look, image, cover)
    shown = {"l_eye": left, "r_eye": right}
    if look.glasses:
        shown["eye_g"] = paint_glasses(rng, look, image, cover)
    if look.glasses == "sun":
        del shown["l_eye"], shown["r_eye"]
    area = (config.mask_size, config.mask_size)
    parts = {k: cv2.resize(v, area, interpolation=cv2.INTER_AREA) > 0.5 for k, v in shown.items()}
    speck = max(2, 5e-5 * config.mask_size**2)  # nobody would mark fewer pixels
    parts = {name: mask for name, mask in parts.items() if mask.sum() > speck}
    return Face(photograph(rng, image), parts)


def write_sample(out: Path, config: SampleConfig, workers: int | None = None) -> SampleReport:
    """Write a sample in the official layout, or finish one that was interrupted.

    Parameters
    ----------
    out
        Folder to write into; made if missing. A sample of other settings in it is replaced.
    config
        Settings.
    workers
        Number of processes; None for one per core. The files' bytes do not depend on it.

    Returns
    -------
    SampleReport
        `written` is 0 if the sample was complete.

    Raises
    ------
    InputError
        If workers is less than 1, or out holds pictures that this function did not write.
    """
    workers = usable_cores() if workers is None else workers
    _check("workers", workers, 1, 2**31 - 1)
    _prepare(out, {"drawer": _DRAWER, **asdict(config)})
    missing = [i for i in range(config.count) if not _image_path(out, i).exists()]
    draw = partial(_write_face, out=out, config=config)
    bar = partial(tqdm, total=len(missing), desc="draw faces", unit="face", disable=None)
    if min(workers, len(missing)) <= 1:
        for _ in bar(map(draw, missing)):
            pass
    else:
        # spawned workers share no state with this process's threads
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent) as pool:
            for _ in bar(pool.map(draw, missing, chunksize=4)):
                pass
    splits = [_split(index) for index in range(config.count)]
    counts = {name: splits.count(number) for number, name in enumerate(SPLITS)}
    return SampleReport(config.count, len(missing), counts)


def _split(index: int) -> int:
    """Of ten faces, put eight in train (0), one in val (1) and one in test (2)."""
    return max(0, index % 10 - 7)


def _orig_idx(index: int) -> int:
    """Return a number in CelebA that lies in the face's split, another for each face."""
    tens, ones = divmod(index, 10)
    split = _split(index)
    return _FIRST_ORIG_IDX[split] + (tens if split else tens * 8 + ones)


def _prepare(out: Path, settings: dict[str, int]) -> None:
    """Remove the faces of other settings; write the mapping and a record of the settings."""
    record, content = out / _SETTINGS_FILE, (json.dumps(settings, indent=2) + "\n").encode()
    found = record.read_bytes() if record.exists() else None
    if found == content:
        return
    if found is None and any(out.glob(f"{IMAGE_FOLDER}/*")):
        problem = f"{IMAGE_FOLDER} holds pictures that are no sample"
        raise InputError(out, problem, "Give another folder")
    _write(record, b"{}")  # if the removal is interrupted, the next run goes on with it
    for path in [*out.glob(f"{IMAGE_FOLDER}/*.jpg"), *out.glob(f"{MASK_FOLDER}/*/*.png")]:
        path.unlink()
    originals = enumerate(map(_orig_idx, range(settings["count"])))
    rows = [f"{index} {original} {original + 1:06d}.jpg\n" for index, original in originals]
    _write(out / MAPPING_FILE, "".join(("idx orig_idx orig_file\n", *rows)).encode())
    _write(record, content)


def _image_path(out: Path, index: int) -> Path:
    return out / IMAGE_FOLDER / f"{index}.jpg"


def _write_face(index: int, out: Path, config: SampleConfig) -> None:
    """Draw and write one face, its picture last: a picture that is there has all its masks."""
    cv2.setNumThreads(1)  # the processes are as many as the cores
    face = draw_face(index, config)
    for part, mask in face.parts.items():
        path = out / MASK_FOLDER / str(index // 2000) / f"{index:05d}_{part}.png"
        levels = cv2.merge([mask.astype(np.uint8) * 255] * 3)
        _write(path, cv2.imencode(".png", levels)[1].tobytes())
    quality = int(np.random.default_rng((config.seed, index, 1)).integers(70, 96))
    jpeg = simplejpeg.encode_jpeg(face.image, quality, colorsubsampling="420")
    _write(_image_path(out, index), jpeg)


def _write(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all; not synced, which thousands would pay for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
