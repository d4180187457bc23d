"""Rotation and scale sweep: `python tests/bench/framing.py --data london-faces --output docs/...`.

Portraits with hand-placed masks are shrunk, turned and pasted off-centre onto a larger canvas;
`infer` has to find and segment them there. F1 from pixel counts at the canvas's resolution, and
the width of an eye in pixels. Writes a table and a plot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

ROLLS = (-60, -40, -20, 0, 20, 40, 60)
SIZES = (60, 90, 130, 200, 320, 500, 700)
_CANVAS = (1100, 1500)


def place(rgb: Any, mask: Any, face: float, size: float, roll: float, rng: Any) -> tuple[Any, Any]:
    """Paste a portrait whose face is `face` pixels wide so that it is `size` wide, turned."""
    import cv2
    import numpy as np

    scale, side = size / face, np.array(rgb.shape[1::-1])
    matrix = cv2.getRotationMatrix2D(tuple(float(v) for v in side / 2), roll, scale)
    room = np.array(_CANVAS[::-1]) / 2 - np.minimum(0.6 * size, np.array(_CANVAS[::-1]) / 2)
    matrix[:, 2] += np.array(_CANVAS[::-1]) / 2 - side / 2 + rng.uniform(-1, 1, 2) * room
    if scale < 1:
        sigma = 0.5 * np.sqrt(1 / scale**2 - 1)
        rgb, mask = (cv2.GaussianBlur(plane, (0, 0), sigma) for plane in (rgb, mask))
    colour = rgb[:4].reshape(-1, 3).mean(axis=0)
    size_ = _CANVAS[::-1]
    canvas = cv2.warpAffine(rgb, matrix, size_, borderValue=[float(v) for v in colour])
    return canvas, cv2.warpAffine(mask, matrix, size_) >= 128


@click.command()
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--model", type=click.Path(path_type=Path), help="[default: the bundled weights]")
@click.option("--every", default=4, help="Use every n-th portrait.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder for table and plot.")
def main(data: Path, model: Path | None, every: int, output: Path | None) -> None:
    """Print the table; write it and a plot."""
    import numpy as np
    from tqdm import tqdm

    from infer import Predictor
    from preprocess.celebamask import read_plan
    from preprocess.image import decode_rgb
    from preprocess.mask import decode_mask

    predictor = Predictor.from_checkpoint(model) if model else Predictor.bundled()
    portraits = []
    for sample in read_plan(data, "test").samples[::every]:
        rgb = decode_rgb(sample.image.read(data))
        mask = decode_mask(sample.masks["eye"].read(data))
        (face, *_) = predictor.finder.find(rgb)
        portraits.append((rgb, (mask > 0).astype(np.uint8) * 255, face.box[2]))

    def f1(pairs: list[tuple[Any, Any]]) -> float:
        hit = sum(int((one & other).sum()) for one, other in pairs)
        return 2 * hit / max(1, sum(int(one.sum() + other.sum()) for one, other in pairs))

    aligned = f1([(predictor.predict(rgb).mask, mask > 0) for rgb, mask, _ in portraits])
    rng = np.random.default_rng(0)
    scores = np.zeros((len(SIZES), len(ROLLS)))
    widths = np.zeros(len(SIZES))
    with tqdm(total=scores.size * len(portraits), unit="photo", disable=None) as bar:
        for row, size in enumerate(SIZES):
            for column, roll in enumerate(ROLLS):
                pairs = []
                for rgb, mask, face in portraits:
                    canvas, truth = place(rgb, mask, face, size, roll, rng)
                    pairs.append((predictor.predict(canvas).mask, truth))
                    bar.update()
                scores[row, column] = f1(pairs)
            widths[row] = np.mean([size / face * _eye_width(mask) for _, mask, face in portraits])
    lines = [
        f"{len(portraits)} portraits; F1 on the portraits as they are: {aligned:.4f}", "",
        "| face, px | eye, px | " + " | ".join(f"roll {roll}" for roll in ROLLS) + " |",
        "| --- " * (2 + len(ROLLS)) + "|",
        *(f"| {size} | {width:.1f} | " + " | ".join(f"{value:.4f}" for value in row) + " |"
          for size, width, row in zip(SIZES, widths, scores, strict=True)),
        "", f"Lowest where an eye is wider than 12 pixels: {scores[widths > 12].min():.4f}, "
        f"{scores[widths > 12].min() - aligned:+.4f} of the aligned result.",
    ]  # fmt: skip
    print("\n".join(lines))
    if output:
        output.mkdir(parents=True, exist_ok=True)
        (output / "framing.txt").write_text("\n".join(lines) + "\n")
        _plot(scores, widths, aligned, output / "framing.png")


def _eye_width(mask: Any) -> float:
    import numpy as np

    from preprocess.mask import eye_boxes

    return float(np.mean([width for *_, width, _ in eye_boxes(mask)]))


def _plot(scores: Any, widths: Any, aligned: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for column, roll in enumerate(ROLLS):
        axes.plot(widths, scores[:, column], marker="o", label=f"roll {roll}")
    axes.axhline(aligned, color="black", linewidth=1, label="as they are")
    axes.axhspan(aligned - 0.02, aligned + 0.02, color="grey", alpha=0.15)
    axes.axvline(12, color="grey", linewidth=1, linestyle=":")
    axes.set(xscale="log", xlabel="width of an eye, pixels", ylabel="F1", ylim=(None, 1))
    axes.set_xticks(widths, [f"{width:.0f}" for width in widths])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
