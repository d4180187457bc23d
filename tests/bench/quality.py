"""How good a model is beyond the test split: `python tests/bench/quality.py COMMAND --help`.

framing    portraits shrunk, turned and pasted anywhere onto a canvas
photos     snapshots, against dlib's landmarks
groups     glasses, small eyes, darkness: figures by group of photographs
"""

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import contest
import cv2
import numpy as np
import page
import torch

from infer import Predictor
from preprocess.celebamask import read_plan
from preprocess.image import decode_rgb
from preprocess.mask import decode_mask, eye_boxes
from train.augment import plain
from train.evaluate import evaluate_checkpoint, in_order
from train.metrics import image_iou, metrics_of, pixel_counts

ROLLS = (-60, -40, -20, 0, 20, 40, 60)
FACES = (60, 90, 130, 200, 320, 500, 700)  # widths, pixels
CANVAS = (1500, 1100)  # width, height
LEAST_EYE = 12  # pixels: the bar of framing counts wider ones
OUTLINES = (range(36, 42), range(42, 48))  # dlib's points around each eye
WIDTHS = (0, 5, 8, 12, 20, 1e9)
PATH = contest.PATH
MODEL = click.option("--model", type=PATH, default=contest.ROOT / "infer/weights/eyes.safetensors",
                     help="[default: the bundled weights]")  # fmt: skip


@click.group(help=__doc__, no_args_is_help=True)
def main() -> None:
    """Measure a model."""


@main.command()
@click.option("--data", type=PATH, required=True, help="A data set that preprocess reads.")
@MODEL
@click.option("--every", default=4, help="Use every n-th portrait.")
@contest.OUT
def framing(data: Path, model: Path, every: int, out: Path) -> None:
    """Print F1 by size and roll, from pixel counts on the canvas; write OUT/framing.png."""
    predictor = Predictor.from_checkpoint(model)
    portraits = []
    for sample in read_plan(data, "test").samples[::every]:
        rgb = decode_rgb(sample.image.read(data))
        mask = decode_mask(sample.masks["eye"].read(data))
        (face, *_) = predictor.finder.find(rgb)
        portraits.append((rgb, (mask > 0).astype(np.uint8) * 255, face.box[2]))
    aligned = f1([(predictor.predict(rgb).mask, mask > 0) for rgb, mask, _ in portraits])
    rng, scores, widths = np.random.default_rng(0), {}, {}
    for size in FACES:
        eyes = [np.mean([w for *_, w, _ in eye_boxes(mask)]) / face for _, mask, face in portraits]
        widths[size] = size * float(np.mean(eyes))
        for roll in ROLLS:
            placed = [paste(*portrait, size, roll, rng) for portrait in portraits]
            pairs = [(predictor.predict(canvas).mask, truth) for canvas, truth in placed]
            scores[size, roll] = f1(pairs)
        click.echo(f"faces of {size} pixels done", err=True)
    rows = [
        (str(size), f"{widths[size]:.1f}", *(f"{scores[size, roll]:.4f}" for roll in ROLLS))
        for size in FACES
    ]
    lowest = min(value for (size, _), value in scores.items() if widths[size] > LEAST_EYE)
    click.echo(f"{len(portraits)} portraits; F1 on the portraits as they are: {aligned:.4f}\n")
    click.echo(page.markdown(("face, px", "eye, px", *(f"roll {roll}" for roll in ROLLS)), rows))
    click.echo(f"\nLowest where an eye is wider than {LEAST_EYE} pixels: {lowest:.4f}, "
               f"{lowest - aligned:+.4f} of the aligned result.")  # fmt: skip
    curves = {f"roll {r}": {widths[s]: [scores[s, r]] for s in FACES} for r in ROLLS}
    x = "width of an eye, pixels (dotted: F1 on the portraits as they are)"
    panel = page.Panel("F1", x, curves, level=aligned, log="x", zero=False)
    page.plot_curves(out / "framing.png", panel)


def f1(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Return F1 of pairs of masks, pixels pooled."""
    hit = sum(int((one & other).sum()) for one, other in pairs)
    return 2 * hit / max(1, sum(int(one.sum() + other.sum()) for one, other in pairs))


def paste(rgb: Any, mask: Any, face: float, size: float, roll: float, rng: Any) -> tuple[Any, Any]:
    """Paste a portrait whose face is `face` pixels wide so that it is `size` wide, turned."""
    scale, side, canvas = size / face, np.array(rgb.shape[1::-1]), np.array(CANVAS)
    matrix = cv2.getRotationMatrix2D(tuple(float(v) for v in side / 2), roll, scale)
    room = canvas / 2 - np.minimum(0.6 * size, canvas / 2)
    matrix[:, 2] += canvas / 2 - side / 2 + rng.uniform(-1, 1, 2) * room
    if scale < 1:
        sigma = 0.5 * np.sqrt(1 / scale**2 - 1)
        rgb, mask = (cv2.GaussianBlur(plane, (0, 0), sigma) for plane in (rgb, mask))
    border = rgb[:4].reshape(-1, 3).mean(axis=0).tolist()
    return (cv2.warpAffine(rgb, matrix, CANVAS, borderValue=border),
            cv2.warpAffine(mask, matrix, CANVAS) >= 128)  # fmt: skip


@main.command()
@click.option("--photos", "folder", type=PATH, required=True, help="Photographs and dlib's XML.")
@MODEL
def photos(folder: Path, model: Path) -> None:
    """Print, by width of the eye, how many eyes are hit, and the IoU with dlib's outline."""
    predictor, listed = Predictor.from_checkpoint(model), listed_faces(folder)
    rows: list[tuple[float, bool, float]] = []
    strays = 0
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in {".jpg", ".png"}):
        found = predictor.predict(path)
        here = listed.get(path.name, [])
        count, blobs = cv2.connectedComponents(found.mask.astype(np.uint8))
        eyes, outside = compare(blobs, here)
        rows += eyes
        strays += outside if here else 0
        print(f"{path.name:<28}{len(found.faces):>3} faces found,{len(here):>3} listed,"
              f"{count - 1:>3} blobs")  # fmt: skip
    table = np.array(rows)
    print(f"\n{'eye width, pixels':<22}{'eyes':>6}{'hit':>9}{'mean IoU':>10}")
    for low, high in (*zip(WIDTHS, WIDTHS[1:], strict=False), (8, 1e9)):
        part = table[(table[:, 0] > low) & (table[:, 0] <= high)]
        name = f"{low:g} to {high:g}" if high < 1e9 else f"all over {low:g}"
        if len(part):
            print(f"{name:<22}{len(part):>6}{part[:, 1].mean():>9.1%}{part[:, 2].mean():>10.3f}")
    print(f"blobs outside every listed face: {strays}")


def listed_faces(folder: Path) -> dict[str, list[Any]]:
    """Return, by photograph, the box and the two outlines of every listed face."""
    found = defaultdict(list)
    pages = (ET.parse(path).getroot() for path in folder.glob("*.xml"))
    listed = (
        (i.attrib["file"], box) for p in pages for i in p.iter("image") for box in i.iter("box")
    )
    for photo, box in listed:
        points = {int(p.attrib["name"]): [float(p.attrib[axis]) for axis in "xy"]
                  for p in box.iter("part")}  # fmt: skip
        if len(points) == 68:
            sides = [float(box.attrib[name]) for name in ("left", "top", "width", "height")]
            outlines = [np.array([points[number] for number in ids]) for ids in OUTLINES]
            found[photo].append((sides, outlines))
    return found


def compare(blobs: Any, faces: Any) -> tuple[list[tuple[float, bool, float]], int]:
    """Return (width, whether its centre is hit, IoU) of each eye, and how many blobs are strays."""
    rows, inside = [], np.zeros(blobs.shape, bool)
    for (x, y, width, height), outlines in faces:
        top, left = max(0, int(y - 0.3 * height)), max(0, int(x - 0.3 * width))
        inside[top : int(y + 1.3 * height), left : int(x + 1.3 * width)] = True
        for outline in outlines:
            truth = np.zeros(blobs.shape, np.uint8)
            cv2.fillPoly(truth, [np.rint(outline * 16).astype(np.int32)], 1, shift=4)
            column, row = np.rint(outline.mean(axis=0)).astype(int)
            hit = blobs[row.clip(0, len(blobs) - 1), column.clip(0, blobs.shape[1] - 1)] > 0
            touched = np.unique(blobs[truth > 0])
            marked = np.isin(blobs, touched[touched > 0])
            union = (marked | (truth > 0)).sum()
            rows.append((np.ptp(outline[:, 0]), hit, (marked & (truth > 0)).sum() / max(1, union)))
    return rows, len(set(np.unique(blobs)) - set(np.unique(blobs[inside])) - {0})


@main.command()
@click.option("--data", type=PATH, help="CelebAMask-HQ, for the masks of glasses.")
@click.option("--shards", type=PATH, required=True)
@MODEL
def groups(data: Path | None, shards: Path, model: Path) -> None:
    """Print F1 and mean IoU of each group of test; thirds are thirds of this split."""
    run = evaluate_checkpoint(model, shards, "test")
    glasses = {path.name[:5] for path in data.rglob("*_eye_g.png")} if data else set()
    counts, rows = [], []
    with torch.inference_mode():
        for batch in in_order(run.loader):
            images, truth = plain(batch.images, batch.masks)
            counts.append(pixel_counts(run.model(images), truth, run.checkpoint.threshold))
            pictures = batch.images.cpu().numpy(), batch.masks.cpu().numpy()
            for key, rgb, mask in zip(run.loader.split.keys(batch.rows), *pictures, strict=True):
                boxes = eye_boxes(mask)
                around = rgb[mask.any(axis=1)] if boxes else rgb
                width = max((w for *_, w, _ in boxes), default=np.nan)
                openness = np.mean([h / w for *_, w, h in boxes]) if boxes else np.nan
                rows.append((key in glasses, len(boxes), width, openness, around.mean()))
    table, traits = torch.cat(counts), np.array(rows, float)

    lines = []

    def group(name: str, chosen: Any) -> None:
        part = table[torch.from_numpy(np.asarray(chosen))]
        if len(part):
            figures, lowest = metrics_of(part), float(image_iou(part).min())
            row = (f"{figures.f1:.4f}", f"{figures.mean_iou:.4f}", f"{lowest:.3f}")
            lines.append((name, str(len(part)), *row))

    group("all", traits[:, 0] >= 0)
    group("glasses", traits[:, 0] == 1)
    group("no glasses", traits[:, 0] == 0)
    for count in (0, 1, 2):
        group(f"{count} eyes visible", traits[:, 1] == count)
    for column, low, high, unit in (
        (2, "small eyes", "large eyes", " px"),
        (3, "narrow eyes", "wide open eyes", ""),
        (4, "dark around the eyes", "light around the eyes", ""),
    ):
        values = traits[:, column]
        first, second = np.nanquantile(values, [1 / 3, 2 / 3])
        group(f"{low} (to {first:.3g}{unit})", values <= first)
        group(f"between ({first:.3g} to {second:.3g}{unit})", (values > first) & (values <= second))
        group(f"{high} (over {second:.3g}{unit})", values > second)
    click.echo(page.markdown(("group", "n", "F1", "mean IoU", "lowest"), lines))


if __name__ == "__main__":
    main()
