"""What the live page takes from Python: weights, a drawn face, and one table of constants.

`make page` runs ``python -m infer.page_data FOLDER``. The page repeats the rules of `infer.faces`,
`frame`, `eyes` and `follow` in another language; their numbers are not repeated.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import simplejpeg

from infer import cli, eyes, faces, follow, frame, network, output, predictor, record
from preprocess.sample import SampleConfig, draw_face

_DRAWN = 17  # of the sample data set: a face without glasses, both eyes open
_SIDE, _QUALITY = 640, 88


def constants() -> dict[str, Any]:
    """Return the numbers that the page shares with Python, and the metadata of the network."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(network.BUNDLED), providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["eye_segmentation"])
    return {
        "schema": record.SCHEMA,
        "network": {
            "size": facts["input"]["size"], "stride": facts["stride"],
            "threshold": facts["threshold"],
        },
        "finder": {
            "stride": faces._STRIDE, "multiple": faces._MULTIPLE, "looks": faces._LOOKS,
            "nearly": faces._NEARLY, "same": faces._SAME, "inside": faces._INSIDE,
            "face": faces._FACE, "perhaps": faces._PERHAPS,
            "turned": faces._TURNED, "clear": faces._CLEAR,
        },
        "frame": {
            "across": frame._ACROSS, "down": frame._DOWN, "below": frame._BELOW,
            "wide": frame._WIDE, "high": frame._HIGH, "middle": frame._MIDDLE,
            "likely": frame._LIKELY, "room": frame._ROOM, "eye": frame._EYE, "sharp": frame._SHARP,
            "tiny": frame._TINY, "soft": frame._SOFT,
            "leastEyeDistance": frame.LEAST_EYE_DISTANCE,
        },
        "eyes": {
            "closed": eyes.CLOSED, "telling": eyes._TELLING, "leastShare": eyes._LEAST_SHARE,
            "edge": output._EDGE,
        },
        "oneFace": {
            "alike": predictor._ALIKE, "apart": predictor._APART, "slope": predictor._SLOPE,
            "amid": predictor._AMID, "gap": predictor._GAP, "filled": predictor._FILLED,
        },
        "follow": {
            "followed": follow._FOLLOWED, "anew": follow._ANEW, "reach": follow._REACH,
            "gone": follow._GONE,
            "smooth": next(p.default for p in cli.clip.params if p.name == "smooth"),
        },
        "texts": {"noFace": predictor.NO_FACE, "tooSmall": predictor.TOO_SMALL},
    }  # fmt: skip


def write(folder: Path) -> None:
    """Write constants.json, the two networks and face.jpg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "constants.json").write_text(json.dumps(constants(), indent=1) + "\n")
    shutil.copy(network.BUNDLED, folder / "eyes.onnx")
    shutil.copy(faces.PATH, folder / "centerface.onnx")
    drawn = draw_face(_DRAWN, SampleConfig(size=_SIDE, mask_size=_SIDE)).image
    (folder / "face.jpg").write_bytes(simplejpeg.encode_jpeg(drawn, _QUALITY, "RGB", "420"))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
