"""Photographs to measure with, in the official layout: made up, or CelebAMask-HQ's own.

A JPEG of few bits is easy to decode, and one of white grain is dear. So the drawn faces lose their
grain, and noise whose amplitude falls with frequency as in natural pictures (1/f) is laid over each
until its file is as large as one of CelebA-HQ: 100 to 200 KB at 1024 x 1024, quality 90, 4:2:0.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from PIL import Image

from preprocess.celebamask import EYES, IMAGE_FOLDER, MASK_FOLDER, read_plan
from preprocess.runtime import usable_cores
from preprocess.sample import SampleConfig, draw_face

SIDE = 1024
MASK_SIDE = SIDE // 2
SMALLEST, LARGEST = 105_000, 195_000
_STRONGEST = 24.0  # levels of noise, standard deviation
Array = np.ndarray[Any, Any]


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def lay_out(folder: Path, count: int, data: Path | None) -> str:
    """Fill a folder with photographs that all show two eyes; say in words what they are.

    Parameters
    ----------
    folder
        Where to; numbered from 0 in the official layout.
    count
        Photographs.
    data
        CelebAMask-HQ; None makes them up.
    """
    (folder / IMAGE_FOLDER).mkdir(parents=True)
    (folder / MASK_FOLDER / "0").mkdir(parents=True)
    if data is None:
        _make_up(folder, count)
        kind = "made-up photographs (drawn faces under noise of natural statistics)"
    else:
        _take(folder, count, data)
        kind = f"photographs of {data.name}, scaled up (bicubic, quality 90) where they are smaller"
    sizes = sorted(path.stat().st_size for path in (folder / IMAGE_FOLDER).iterdir())
    return (
        f"{count} {kind}, {SIDE} x {SIDE}, {sizes[0] / 1e3:.0f} to {sizes[-1] / 1e3:.0f} KB "
        f"(median {sizes[count // 2] / 1e3:.0f}); two masks each, {MASK_SIDE} x {MASK_SIDE} RGB PNG"
    )


def repeat(folder: Path, count: int, times: int) -> None:
    """Give every photograph further numbers, without further bytes: an epoch becomes longer."""
    for number in range(count, count * times):
        first = number % count
        os.link(folder / IMAGE_FOLDER / f"{first}.jpg", folder / IMAGE_FOLDER / f"{number}.jpg")
        for eye in EYES:
            path = folder / MASK_FOLDER / str(number // 2000) / f"{number:05d}_{eye}.png"
            path.parent.mkdir(exist_ok=True)
            os.link(folder / MASK_FOLDER / "0" / f"{first:05d}_{eye}.png", path)


def write_zip(folder: Path, archive: Path) -> None:
    """Zip a folder as `zip -r` does: deflated at level 6, stored what that does not shrink."""
    with zipfile.ZipFile(archive, "w", compresslevel=6) as file:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            smaller = len(zlib.compress(content, 6)) < len(content)
            method = zipfile.ZIP_DEFLATED if smaller else zipfile.ZIP_STORED
            name = f"CelebAMask-HQ/{path.relative_to(folder).as_posix()}"
            file.write(path, name, method)


def _put(folder: Path, number: int, jpeg: bytes, masks: dict[str, bytes]) -> None:
    (folder / IMAGE_FOLDER / f"{number}.jpg").write_bytes(jpeg)
    for eye, png in masks.items():
        (folder / MASK_FOLDER / "0" / f"{number:05d}_{eye}.png").write_bytes(png)


def _make_up(folder: Path, count: int) -> None:
    # One face in ten does not show both eyes: each photograph has a range of seeds to itself.
    workers = min(usable_cores(), max(1, count // 8))
    if workers == 1:
        for number in range(count):
            _make_one(number, folder)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        list(pool.map(partial(_make_one, folder=folder), range(count), chunksize=4))


def _make_one(number: int, folder: Path) -> None:
    config = SampleConfig(1, 0, SIDE, MASK_SIDE)
    index, face = 10_000 + 50 * number, None
    while face is None or not set(EYES) <= set(face.parts):
        face = draw_face(index, config)
        index += 1
    masks = {}
    for eye in EYES:
        levels = np.asarray(face.parts[eye], np.uint8) * 255
        masks[eye] = saved(Image.fromarray(levels).convert("RGB"), "PNG")
    _put(folder, number, _textured(face.image, np.random.default_rng((7, number))), masks)


def _textured(image: Array, rng: np.random.Generator) -> bytes:
    """Lay 1/f noise over a picture, as much as brings its JPEG to a natural size."""
    wanted = rng.uniform(SMALLEST + 5_000, LARGEST - 5_000)
    image = cv2.GaussianBlur(image, (0, 0), 1.2)  # the drawn grain is white: finer than nature's
    tile = _natural_noise()
    tile = np.roll(tile, tuple(rng.integers(0, SIDE, 2)), (0, 1))
    tile = tile[:: rng.choice((-1, 1)), :: rng.choice((-1, 1)), None]
    low, high, best = 0.0, _STRONGEST, b""
    for _ in range(7):
        strength = (low + high) / 2
        levels = np.clip(image + strength * tile + 0.5, 0, 255).astype(np.uint8)
        best = saved(Image.fromarray(levels), "JPEG", quality=90)
        if abs(len(best) - wanted) < 4_000:
            break
        low, high = (strength, high) if len(best) < wanted else (low, strength)
    return best


@lru_cache(maxsize=1)
def _natural_noise() -> Array:
    """Return noise of amplitude 1/f, (SIDE, SIDE) float32 of mean 0 and deviation 1."""
    white = np.fft.rfft2(np.random.default_rng(5).standard_normal((SIDE, SIDE)))
    y, x = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    frequency = np.hypot(y, x)
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(white / frequency, (SIDE, SIDE))
    return np.asarray(noise / noise.std(), np.float32)


def _take(folder: Path, count: int, data: Path) -> None:
    both = [sample for sample in read_plan(data).samples if len(sample.masks) == len(EYES)][:count]
    if len(both) < count:
        raise click.ClickException(f"{data} has {len(both)} photographs with two eyes: too few")
    for number, sample in enumerate(both):
        jpeg = _as_large(sample.image.read(data))
        masks = {eye: member.read(data) for eye, member in sample.masks.items()}
        for png in masks.values():
            with Image.open(io.BytesIO(png)) as mask:
                if (mask.size, mask.mode) != ((MASK_SIDE, MASK_SIDE), "RGB"):
                    problem = f"a mask of {data} is {mask.size} {mask.mode}"
                    raise click.ClickException(f"{problem}, not {MASK_SIDE} x {MASK_SIDE} RGB")
        _put(folder, number, jpeg, masks)


def _as_large(jpeg: bytes) -> bytes:
    with Image.open(io.BytesIO(jpeg)) as picture:
        if picture.size == (SIDE, SIDE):
            return jpeg
        large = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return saved(large, "JPEG", quality=90)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--count", default=48, show_default=True)
@click.option("--data", type=click.Path(path_type=Path), help="CelebAMask-HQ; else made up.")
def main(folder: Path, count: int, data: Path | None) -> None:
    """Write photographs into FOLDER and say what they are."""
    click.echo(json.dumps(lay_out(folder, count, data)))


if __name__ == "__main__":
    main()
