"""Eyes of snapshots against dlib's landmarks: `python tests/bench/photos.py --photos FOLDER`.

FOLDER holds photographs and dlib's XML files, in which points 36 to 41 and 42 to 47 of a face
outline its eyes. Printed by width of the eye: the share of eyes whose predicted blob covers the
centre of the outline, mean IoU of blob and outline, and what was marked outside every face.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import click

OUTLINES = (range(36, 42), range(42, 48))
WIDTHS = (0, 5, 8, 12, 20, 1e9)


def listed_faces(folder: Path) -> dict[str, list[tuple[Any, list[Any]]]]:
    """Return, by photograph, the box and the two outlines of every listed face."""
    import numpy as np

    found: dict[str, list[tuple[Any, list[Any]]]] = {}
    for path in sorted(folder.glob("*.xml")):
        for image in ET.parse(path).getroot().iter("image"):
            faces = found.setdefault(image.attrib["file"], [])
            for box in image.iter("box"):
                points = {
                    int(part.attrib["name"]): (float(part.attrib["x"]), float(part.attrib["y"]))
                    for part in box.iter("part")
                }
                if len(points) == 68:
                    sides = [float(box.attrib[name]) for name in ("left", "top", "width", "height")]
                    outlines = [np.array([points[n] for n in ids]) for ids in OUTLINES]
                    faces.append((sides, outlines))
    return found


@click.command()
@click.option("--photos", type=click.Path(path_type=Path), required=True)
@click.option("--model", type=click.Path(path_type=Path), help="[default: the bundled weights]")
@click.option("--faces", default="auto")
def main(photos: Path, model: Path | None, faces: str) -> None:
    """Print the table."""
    import cv2
    import numpy as np

    from infer import Predictor
    from preprocess.image import decode_rgb

    predictor = Predictor.from_checkpoint(model) if model else Predictor.bundled()
    rows = []
    strays = 0
    listed = listed_faces(photos)
    for path in sorted(p for p in photos.iterdir() if p.suffix.lower() in {".jpg", ".png"}):
        prediction = predictor.predict(decode_rgb(path.read_bytes()), faces)
        count, blobs = cv2.connectedComponents(prediction.mask.astype(np.uint8))
        inside = np.zeros(blobs.shape, bool)
        for (x, y, width, height), outlines in listed.get(path.name, []):
            top, left = max(0, int(y - 0.3 * height)), max(0, int(x - 0.3 * width))
            inside[top : int(y + 1.3 * height), left : int(x + 1.3 * width)] = True
            for outline in outlines:
                truth = np.zeros(blobs.shape, np.uint8)
                cv2.fillPoly(truth, [np.rint(outline * 16).astype(np.int32)], 1, shift=4)
                column, row = np.rint(outline.mean(axis=0)).astype(int)
                blob = blobs[row.clip(0, len(blobs) - 1), column.clip(0, blobs.shape[1] - 1)]
                touched = np.unique(blobs[truth > 0])
                marked = np.isin(blobs, touched[touched > 0])
                union = (marked | (truth > 0)).sum()
                rows.append((np.ptp(outline[:, 0]), blob > 0,
                             (marked & (truth > 0)).sum() / max(1, union)))  # fmt: skip
        outside = {int(n) for n in np.unique(blobs) if n} - {
            int(n) for n in np.unique(blobs[inside])
        }
        strays += len(outside) if path.name in listed else 0
        print(f"{path.name:<28}{len(prediction.faces):>3} faces found,"
              f"{len(listed.get(path.name, [])):>3} listed,{count - 1:>3} blobs"
              f"{', none of it listed' if path.name not in listed else ''}")  # fmt: skip
    table = np.array(rows)
    print(f"\n{'eye width, pixels':<22}{'eyes':>6}{'hit':>9}{'mean IoU':>10}")
    for low, high in zip(WIDTHS, WIDTHS[1:], strict=False):
        part = table[(table[:, 0] > low) & (table[:, 0] <= high)]
        name = f"{low:g} to {high:g}" if high < 1e9 else f"over {low:g}"
        if len(part):
            print(f"{name:<22}{len(part):>6}{part[:, 1].mean():>9.1%}{part[:, 2].mean():>10.3f}")
    wide = table[table[:, 0] > 8]
    print(f"{'all over 8':<22}{len(wide):>6}{wide[:, 1].mean():>9.1%}{wide[:, 2].mean():>10.3f}")
    print(f"blobs outside every listed face: {strays}")


if __name__ == "__main__":
    main()
