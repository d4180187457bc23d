"""Procedural faces in the official CelebAMask-HQ layout: no download, exact masks.

One face is a pure function of (seed, index); `write_sample` lays a set of them out as the
official archive does, so that everything which reads CelebAMask-HQ reads it too.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from tqdm import tqdm

from preprocess.drawn.camera import photograph
from preprocess.drawn.eye import draw_eyes
from preprocess.drawn.face import draw_frame
from preprocess.drawn.glasses import draw_glasses
from preprocess.drawn.look import SPAN, draw_look
from preprocess.runtime import end_with_parent, usable_cores

Array = npt.NDArray[Any]
_DRAWER = 1  # raise whenever the same seed draws other pictures: finished samples are then redrawn
_VALIDATION_START, _TEST_START = 162_770, 182_637  # of the official split, in orig_idx
_IMAGES, _MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
_MAPPING, _DONE, _BEGUN = "CelebA-HQ-to-CelebA-mapping.txt", "sample.json", "sample.partial.json"
# masks are runs of one value: run lengths alone compress them well, and four times as fast
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]  # fmt: skip
_PARTS = ("l_eye", "r_eye", "eye_g", "skin")


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
        Side of the masks in pixels, 16 up to `size`.

    Raises
    ------
    ValueError
        If a value is outside its range.
    """

    count: int = 400
    seed: int = 0
    size: int = 1024
    mask_size: int = 512

    def __post_init__(self) -> None:
        """Check every range."""
        for name, low, high in (
            ("count", 1, 99_999),
            ("seed", 0, 2**63 - 1),
            ("size", 64, 4096),
            ("mask_size", 16, self.size),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}: expected an integer from {low} to {high}")


@dataclass(frozen=True)
class Face:
    """One drawn face.

    Attributes
    ----------
    image
        (size, size, 3) uint8, RGB, 0 to 255.
    parts
        (mask_size, mask_size) bool for each visible part of `l_eye`, `r_eye`, `eye_g`, `skin`;
        `l_eye` is the subject's left eye, on the viewer's right.  A part out of sight has no key.
    """

    image: npt.NDArray[np.uint8]
    parts: dict[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class SampleReport:
    """What `write_sample` did: faces in all, written, found there; faces of each split; seconds."""

    count: int
    written: int
    skipped: int
    splits: dict[str, int]
    seconds: float


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
    ValueError
        If index is negative.
    """
    if index < 0:
        raise ValueError(f"index is {index}: expected 0 or more")
    rng = np.random.default_rng((config.seed, index))
    size, mask_size = config.size, config.mask_size
    look = draw_look(rng, size)
    frame, cover, skin = draw_frame(rng, look)
    n = len(frame)
    step = 2 * SPAN / n
    to_face = np.array([[step, 0, step / 2 - SPAN], [0, step, step / 2 - SPAN], [0, 0, 1]])
    matrix = look.affine @ to_face
    # pixel centres lie at half integers in `affine`, at integers for OpenCV
    half = np.array([[0, 0, 0.5]])
    image = cv2.warpAffine(frame, matrix - half, (size, size), borderMode=cv2.BORDER_REFLECT)
    cover = _warp_coverage(cover, matrix, size)
    skin = _warp_coverage(skin, matrix * (mask_size / size), mask_size)
    right, left = draw_eyes(rng, look, image, cover)
    shown = {"l_eye": left, "r_eye": right}
    if look.glasses != "none":
        shown["eye_g"] = draw_glasses(rng, look, image, cover)
    area = (mask_size, mask_size)
    small = {k: cv2.resize(v, area, interpolation=cv2.INTER_AREA) > 0.5 for k, v in shown.items()}
    small["skin"] = (skin > 0.5) & ~np.any(list(small.values()), axis=0)
    if look.glasses == "sun":
        del small["l_eye"], small["r_eye"]
    # a speck of a few pixels is no part that anyone would mark
    parts = {k: v for k, v in small.items() if v.sum() > max(2, 5e-5 * mask_size**2)}
    return Face(photograph(rng, image), parts)


def _warp_coverage(coverage: Array, matrix: Array, size: int) -> Array:
    """Carry the frame's coverage, 0 to 1, into a square picture; float32."""
    levels = (coverage * 255 + 0.5).astype(np.uint8)
    return cv2.warpAffine(levels, matrix - [[0, 0, 0.5]], (size, size)).astype(np.float32) / 255


def _original(index: int) -> int:
    """Return orig_idx: of ten faces eight train, one validation, one test, by the official rule."""
    tens, one = divmod(index, 10)
    return (tens * 8 + one, _VALIDATION_START + tens, _TEST_START + tens)[max(0, one - 7)]


def _put(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _write_face(index: int, out: Path, config: SampleConfig) -> None:
    """Draw and write one face, its picture last: a picture that is there has all its masks."""
    cv2.setNumThreads(1)
    face = draw_face(index, config)
    folder = out / _MASKS / str(index // 2000)
    for part in _PARTS:
        path = folder / f"{index:05d}_{part}.png"
        if part in face.parts:
            white = cv2.merge([face.parts[part].astype(np.uint8) * 255] * 3)
            _put(path, cv2.imencode(".png", white, _PNG)[1].tobytes())
        else:
            path.unlink(missing_ok=True)
    quality = int(np.random.default_rng((config.seed, index, 1)).integers(70, 96))
    _put(out / _IMAGES / f"{index}.jpg", simplejpeg.encode_jpeg(
        face.image, quality=quality, colorspace="RGB", colorsubsampling="420"))  # fmt: skip


def _read_settings(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError):
        return None


def _prepare(out: Path, settings: dict[str, Any]) -> None:
    """Clear what other settings drew and leave the mark of a begun sample."""
    done, begun = out / _DONE, out / _BEGUN
    mark = json.dumps(settings)
    if begun.exists() or done.exists():
        if _read_settings(begun if begun.exists() else done) != settings:
            if done.exists():
                done.replace(begun)
            for pattern in (f"{_IMAGES}/*.jpg", f"{_MASKS}/*/*.png"):
                for path in out.glob(pattern):
                    path.unlink()
    elif any(out.glob(f"{_IMAGES}/*")):
        raise FileExistsError(f"{out / _IMAGES} holds pictures that are no sample: expected none")
    _put(begun, mark.encode())


def write_sample(out: Path, config: SampleConfig, workers: int | None = None) -> SampleReport:
    """Write a sample in the official layout, continuing what an interrupted run left.

    Parameters
    ----------
    out
        Folder to write into; made if missing.  A sample of other settings in it is replaced.
    config
        Settings.
    workers
        Processes; None for one per core, 1 for none beside this one.  The files' bytes are the
        same whatever the number.

    Returns
    -------
    SampleReport
        Totals; `written` is 0 if the sample was complete.

    Raises
    ------
    ValueError
        If workers is less than 1.
    FileExistsError
        If out holds pictures that this function did not write.
    """
    start = time.perf_counter()
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}: expected 1 or more, or None")
    settings = {"drawer": _DRAWER, **asdict(config)}
    originals = [_original(i) for i in range(config.count)]
    kinds = [(o >= _VALIDATION_START) + (o >= _TEST_START) for o in originals]
    splits = {name: kinds.count(k) for k, name in enumerate(("train", "val", "test"))}
    todo: list[int] = []
    if _read_settings(out / _DONE) != settings:
        _prepare(out, settings)
        todo = [i for i in range(config.count) if not (out / _IMAGES / f"{i}.jpg").exists()]
        _write_faces(todo, out, config, workers or usable_cores())
        rows = [f"{i} {o} {o + 1:06d}.jpg\n" for i, o in enumerate(originals)]
        _put(out / _MAPPING, ("idx orig_idx orig_file\n" + "".join(rows)).encode())
        _put(out / _DONE, (json.dumps(settings, indent=2) + "\n").encode())
        (out / _BEGUN).unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    return SampleReport(config.count, len(todo), config.count - len(todo), splits, seconds)


def _write_faces(todo: list[int], out: Path, config: SampleConfig, workers: int) -> None:
    bar = partial(tqdm, total=len(todo), desc="draw faces", unit="face", disable=None)
    draw = partial(_write_face, out=out, config=config)
    workers = min(workers, len(todo))
    if workers <= 1:
        for _ in bar(map(draw, todo)):
            pass
        return
    # spawned workers share no state with the caller's threads and are alike on every platform
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent) as pool:
        for _ in bar(pool.map(draw, todo, chunksize=4)):
            pass
