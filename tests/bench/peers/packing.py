"""Packing as most preparation scripts do it: Pillow and tarfile."""

import io
import json
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from contest import Figures, serve
from PIL import Image

CHROMA = {"444": 0, "422": 1, "420": 2}
MASKS = "CelebAMask-HQ-mask-anno/0"


def pillow(
    source: str, count: int, size: int, quality: int, subsampling: str, draft: bool
) -> Figures:
    """Pack so many photographs, after a few that load everything."""
    square, images, masks = (size, size), Path(source, "CelebA-HQ-img"), Path(source, MASKS)

    def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    def pack(numbers: range, out: Path) -> None:
        with tarfile.open(out, "w") as tar:
            for number in numbers:
                with Image.open(images / f"{number}.jpg") as picture:
                    if draft:
                        picture.draft("RGB", (2 * size, 2 * size))
                    image = picture.convert("RGB").resize(square, Image.Resampling.LANCZOS)
                both = np.zeros((), np.uint8)
                for eye in ("l_eye", "r_eye"):
                    with Image.open(masks / f"{number:05d}_{eye}.png") as mask:
                        both = both | np.asarray(mask.convert("L"))
                label = Image.fromarray(both).resize(square, Image.Resampling.NEAREST)
                parts = {
                    "jpg": saved(image, "JPEG", quality=quality, subsampling=CHROMA[subsampling]),
                    "json": json.dumps({"key": f"{number:05d}"}).encode(),
                    "png": saved(label, "PNG"),
                }
                for extension, content in parts.items():
                    info = tarfile.TarInfo(f"{number:05d}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))

    with tempfile.TemporaryDirectory(dir=Path(source).parent) as folder:
        pack(range(4), Path(folder, "warm.tar"))
        cpu, wall = time.process_time(), time.perf_counter()
        pack(range(count), Path(folder, "out.tar"))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": 1e3 * cpu / count, "wall": 1e3 * wall / count, "images": count / cpu}


if __name__ == "__main__":
    serve((pillow,))
