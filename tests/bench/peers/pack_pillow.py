"""Packing as most preparation scripts do it: Pillow and tarfile. Run by the peers' Python.

Advice followed: https://pillow.readthedocs.io/en/stable/reference/Image.html (`Image.draft`:
a JPEG is decoded at a half, a quarter or an eighth of its size, at least as large as asked for).
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

EYES = ("l_eye", "r_eye")


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pack(source: Path, numbers: range, out: Path, options: argparse.Namespace) -> None:
    size = (options.size, options.size)
    with tarfile.open(out, "w") as tar:
        for number in numbers:
            key = f"{number:05d}"
            with Image.open(source / "CelebA-HQ-img" / f"{number}.jpg") as picture:
                if options.draft:
                    picture.draft("RGB", (2 * options.size, 2 * options.size))
                image = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            union: np.ndarray | None = None
            for eye in EYES:
                name = f"{key}_{eye}.png"
                with Image.open(source / "CelebAMask-HQ-mask-anno" / "0" / name) as mask:
                    levels = np.asarray(mask.convert("L"))
                union = levels if union is None else union | levels
            label = Image.fromarray(union).resize(size, Image.Resampling.NEAREST)
            chroma = {"444": 0, "422": 1, "420": 2}[options.subsampling]
            jpeg = saved(image, "JPEG", quality=options.quality, subsampling=chroma)
            parts = {"jpg": jpeg, "json": json.dumps({"key": key}).encode()}
            for extension, content in (parts | {"png": saved(label, "PNG")}).items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--quality", type=int, required=True)
    parser.add_argument("--subsampling", required=True)
    parser.add_argument("--draft", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.source.parent) as folder:
        pack(options.source, range(4), Path(folder, "warm.tar"), options)
        cpu, wall = time.process_time(), time.perf_counter()
        pack(options.source, range(options.count), Path(folder, "out.tar"), options)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(json.dumps({"cpu": 1e3 * cpu / options.count, "wall": 1e3 * wall / options.count}))


if __name__ == "__main__":
    main()
