"""Made-up faces in the layout of CelebAMask-HQ: nothing to download, and exact masks.

A face is a pure function of (seed, index). `write_sample` writes a set of them as the official
archive is laid out, so whatever reads CelebAMask-HQ reads it too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from tqdm import tqdm

from preprocess.celebamask import (
    FIRST_TEST,
    FIRST_VAL,
    IMAGE_FOLDER,
    MAPPING_FILE,
    MASK_FOLDER,
)
from preprocess.drawn.camera import paint_glasses, photograph
from preprocess.drawn.eye import paint_eyes
from preprocess.drawn.face import draw_head
from preprocess.drawn.look import Look
from preprocess.errors import InputError, require
from preprocess.files import atomic_file, locked, remove_unfinished
from preprocess.image import RGB
from preprocess.runtime import in_processes

_DRAWER = 2  # raise it if the same seed draws other pictures: old samples are then redrawn
_SETTINGS_FILE = "sample.json"


@dataclass(frozen=True)
class SampleConfig:
    """Settings of a sample; an `InputError` if one is out of its range."""

    count: int = 400  # faces
    seed: int = 0
    size: int = 1024  # side of the pictures in pixels
    mask_size: int = 512  # side of the masks in pixels

    def __post_init__(self) -> None:
        """Check every range."""
        _check("count", self.count, 1, 99_999)
        _check("seed", self.seed, 0, 2**63 - 1)
        _check("size", self.size, 64, 4096)
        _check("mask_size", self.mask_size, 16, self.size)


def _check(name: str, value: int, low: int, high: int) -> None:
    require(low <= value <= high, name, f"is {value}", f"an integer from {low} to {high}")


@dataclass(frozen=True)
class Face:
    """One drawn face, and the masks of its visible parts among `l_eye`, `r_eye`, `eye_g` (glasses).

    `l_eye` is the subject's left eye, on the viewer's right.
    """

    image: RGB  # size x size x 3, uint8
    parts: dict[str, npt.NDArray[np.bool_]]  # mask_size x mask_size each


def draw_face(index: int, config: SampleConfig) -> Face:
    """Draw face number `index` (0 or more), a pure function of (seed, index) and the two sizes."""
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


def write_sample(out: Path, config: SampleConfig, workers: int | None = None) -> int:
    """Write a sample in the official layout, or finish one that was interrupted.

    A sample of other settings in `out` is replaced; other pictures there are an `InputError`. The
    bytes do not depend on the workers (None takes one a core). Returns how many faces it drew.
    """
    require(workers is None or workers >= 1, "workers", f"is {workers}", "1 or more")
    with locked(out):
        remove_unfinished(out, out / IMAGE_FOLDER, *out.glob(f"{MASK_FOLDER}/*"))
        _prepare(out, {"drawer": _DRAWER, **asdict(config)})
        missing = [i for i in range(config.count) if not _image_path(out, i).exists()]
        done = in_processes(partial(_write_face, out=out, config=config), missing, workers)
        for _ in tqdm(done, total=len(missing), desc="draw faces", unit="face", disable=None):
            pass
    return len(missing)


def _orig_idx(index: int) -> int:
    """Return a number in CelebA, another for each face: of ten, eight lie in train, one in val."""
    tens, ones = divmod(index, 10)
    return {8: FIRST_VAL + tens, 9: FIRST_TEST + tens}.get(ones, tens * 8 + ones)


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
    face = draw_face(index, config)
    for part, mask in face.parts.items():
        path = out / MASK_FOLDER / str(index // 2000) / f"{index:05d}_{part}.png"
        levels = cv2.merge([mask.astype(np.uint8) * 255] * 3)
        _write(path, cv2.imencode(".png", levels)[1].tobytes())
    quality = int(np.random.default_rng((config.seed, index, 1)).integers(70, 96))
    jpeg = simplejpeg.encode_jpeg(face.image, quality, colorsubsampling="420")
    _write(_image_path(out, index), jpeg)


def _write(path: Path, content: bytes) -> None:
    with atomic_file(path, sync=False) as file:  # thousands would pay for it
        file.write(content)
