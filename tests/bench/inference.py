"""Inference on the CPU: photograph to mask file.

A folder of 1024 x 1024 JPEGs; every contender writes a grey PNG of the photograph's size for each.
Bundled weights, float32. "images/s" is the whole folder, file to mask file, in a process that runs
already; "one photo" is the median latency of a single one there; "start" is from starting the
process to the first mask; "network" is the network alone, a picture, at batch 1 and 16.
Ours gives every core photographs of its own. The network's input is 384 x 384; faces that are found
are seen at 288 x 128.

The plain script opens with Pillow, converts, resizes, normalises, runs the network in float32
(contiguous, without gradients), resizes the mask back and saves it, one photograph after the other:
with the plain U-Net of as many parameters as ours (256 x 256, random weights), and with our network
and weights (384 x 384, as all others). ONNX Runtime runs our network with batch normalisation
folded, with our way of decoding and resizing, with a session of one thread a core and a photograph
each (all cores in each operator were a fifth slower; a single photograph is segmented so), and
keeps freed memory. "IoU" is that of all masks with ours, pooled.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import contest
import cv2
import material
import numpy as np
import page
from contest import Contender, Figures, Options
from rulers import measure_inference

from infer import Predictor
from infer.faces import FaceFinder
from infer.frame import FaceFrame
from infer.network import BUNDLED, OnnxNetwork, open_network
from infer.output import Prediction, View
from infer.photos import find_photos, plan
from infer.run import run
from preprocess.celebamask import IMAGE_FOLDER
from preprocess.image import decode_fitted, decode_rgb

PACKAGES = "onnxruntime opencv-python-headless simplejpeg zlib-ng pillow numpy"
PEER_PACKAGES = "torch onnxruntime onnx simplejpeg pillow numpy"
PREDICTING = "https://docs.pytorch.org/tutorials/beginner/saving_loading_models.html"
THREADS = "https://onnxruntime.ai/docs/performance/tune-performance/threading.html"
LEAST_SPEED = {"plain script": 3.0}
# On our weights all must see the same eyes; another resize moves the edges a little.
LEAST_IOU = {"plain script": 0.0, "ours, auto": 0.7}
STAGES = {
    "decode": decode_rgb,
    "decode and shrink": decode_fitted,
    "find faces": FaceFinder.find,
    "cut out": FaceFrame.sample,
    "network": OnnxNetwork.__call__,
    "bring back, measure eyes": Predictor.assemble,
    "threshold": Prediction.draw,
    "PNG and file": Prediction.save,
}


def contenders(place: Path) -> list[Contender]:
    """List all who take part."""

    def entrant(
        name: str, what: str, script: str, function: str, advice: str = "", **more: Any
    ) -> Contender:
        work = {"photos": place / "photos", "out": place / "out" / name, **more}
        environment = contest.KEEP_MEMORY if function == "onnx" else {}
        return Contender(name, what, script, function, work, advice, environment)

    own = partial(entrant, script="inference.py")
    threshold, size = float((place / "threshold").read_text()), open_network().size
    peer = partial(entrant, script="peers/inference.py", threshold=threshold)
    plain = partial(peer, function="plain", advice=PREDICTING)
    onnx = partial(peer, function="onnx", advice=THREADS, size=size, model=place / "net.onnx")
    whole = "`infer.run.run`, mask only, `--faces whole`: the picture as it is, as the peers do"
    auto = "the same with `--faces auto`: finds the faces of any photo first"
    return [
        own("ours", whole, function="ours", faces="whole"),
        own("ours, auto", auto, function="ours", faces="auto"),
        plain("plain script", "Pillow, plain U-Net, 256 x 256", size=256),
        plain(
            "plain script, our network", "Pillow, our weights", size=size, model=place / "plain.ts"
        ),
        onnx("ONNX Runtime, a photo a core", "our weights, sessions of one thread"),
        own("stages", "", function="stages", faces="whole"),
        own("stages, auto", "", function="stages", faces="auto"),
    ]


def segmenter(out: str, faces: Any, threads: int) -> Callable[[Sequence[Path]], None]:
    """Return what writes the masks of photographs."""
    predictor = Predictor.bundled(threads=threads)
    Path(out).mkdir(parents=True, exist_ok=True)

    def segment(files: Sequence[Path]) -> None:
        jobs = plan(dict.fromkeys(files, Path()), Path(out), [View.MASK])
        for outcome in run(predictor, jobs, faces):
            if outcome.problem:
                raise click.ClickException(outcome.problem)

    return segment


def ours(photos: str, out: str, faces: str) -> Figures:
    def network(batch: int) -> Callable[[], Any]:
        network = open_network()
        size = network.size
        return partial(network, np.zeros((batch, size, size, 3), np.uint8))

    files = list(find_photos([photos]))
    return measure_inference(files, segmenter(out, faces, 0), segmenter(out, faces, 1), network)


def stages(photos: str, out: str, faces: str) -> Figures:
    """Run on one core with a clock at each stage; CPU milliseconds a photograph."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    files, segment = list(find_photos([photos])), segmenter(out, faces, 1)
    segment(files[:4])
    spent = contest.seconds_by_stage(STAGES, lambda: segment(files))
    return {stage: 1e3 * seconds / len(files) for stage, seconds in spent.items()}


def prepare(options: Options) -> str:
    """Make the photographs, say what they are, and write the weights as the peers read them."""
    import torch  # not before: whoever segments starts without it

    from train.checkpoint import Checkpoint
    from train.model import fold_batch_norm

    place = options.place
    said = material.lay_out(place / "set", options.count, options.data)
    (place / "set" / IMAGE_FOLDER).rename(place / "photos")
    checkpoint = Checkpoint.load(BUNDLED.with_suffix(".safetensors"))
    size = checkpoint.spec.size
    (place / "threshold").write_text(str(checkpoint.threshold))
    folded = checkpoint.build(fold_batch_norm(checkpoint.network()))
    for name, model in (("plain", checkpoint.build()), ("folded", folded)):
        model = model.to(memory_format=torch.contiguous_format)
        torch.jit.trace(model, torch.zeros(2, 3, size, size)).save(str(place / f"{name}.ts"))
    work = {"script": place / "folded.ts", "size": size, "model": place / "net.onnx"}
    contest.run(Contender("export", "", "peers/inference.py", "export", work), options.peers)
    return said.partition("; two masks")[0]


def agreement(place: Path, name: str) -> str:
    """Return the IoU of a contender's masks with ours, over all pixels; it must be high enough."""
    hit = union = 0
    for photo in sorted((place / "photos").iterdir()):
        truth = cv2.imread(str(place / "out" / "ours" / f"{photo.stem}_eyes.png"), 0)
        ending = "_eyes.png" if name.startswith("ours") else ".png"
        path = place / "out" / name / f"{photo.stem}{ending}"
        mask = cv2.imread(str(path), 0) if path.exists() else None
        if mask is None or mask.shape != truth.shape:
            raise click.ClickException(f"{name} left no mask of {photo.name} at its size")
        hit += int(((mask > 0) & (truth > 0)).sum())
        union += int(((mask > 0) | (truth > 0)).sum())
    iou, least = hit / max(1, union), LEAST_IOU.get(name, 0.9)
    if iou < least:
        raise click.ClickException(f"{name}: masks have an IoU of {iou:.3f} with ours")
    return f"{iou:.3f}" if least else "-"


@click.command()
@contest.contest_options(count=64)
def main(options: Options) -> None:
    """Compare inference on the CPU; write OUT/inference.md."""
    facts = page.facts(PACKAGES, options.peers, PEER_PACKAGES)
    facts["photographs"] = prepare(options)
    found = contest.run_rounds(contenders(options.place), options.rounds, options.peers)
    columns = {"images/s": ("images", 1), "one photo, ms": ("latency", 0), "start, s": ("start", 1),
               "network, batch 1, ms": ("network_1", 1),
               "batch 16, ms a picture": ("network_16", 1)}  # fmt: skip
    parts = {"ours": found.figures["stages"], "ours, auto": found.figures["stages, auto"]}
    section = page.contest_section(
        "1024 x 1024 JPEG to mask PNG, CPU", options.out / "inference.png", facts, found, ["ours"],
        columns, least=LEAST_SPEED,
        cells={"IoU": lambda who: agreement(options.place, who.name)},
        tables={"Where the time goes, CPU ms a photograph, one core": page.stage_table(parts)},
    )  # fmt: skip
    page.write_page(options.out / "inference.md", __doc__, [section])


if __name__ == "__main__":
    contest.serve((ours, stages), main)
