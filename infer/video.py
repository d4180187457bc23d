"""Video and webcam: every frame segmented, the sound kept.

Finding, the network and encoding run beside each other. Faces are found where they were in the
frame before, and searched for everywhere only now and then; their masks are averaged against
flicker (`infer.follow`).
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from infer.container import File, Frame, Webcam, Writer
from infer.faces import FoundFace
from infer.follow import Follower, Tracker
from infer.output import View
from infer.predictor import Faces, Predictor
from preprocess.errors import InputError
from preprocess.image import RGB

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_AHEAD = 8


@dataclass(frozen=True)
class VideoReport:
    """What was done: frames, those with an eye, frames a second all in all, sound left out."""

    frames: int
    with_eyes: int
    frames_per_second: float
    lost_sounds: int = 0


def segment_video(
    predictor: Predictor,
    source: Path | int,
    output: Path,
    *,
    view: View = View.OVERLAY,
    faces: Faces = "auto",
    smooth: float = 0.5,
    record: Path | None = None,
) -> VideoReport:
    """Segment a video file, or a webcam until the user interrupts.

    Parameters
    ----------
    predictor
        The network.
    source
        A file that FFmpeg reads, or the number of a webcam.
    output
        Ending in .mp4, .mov or .mkv; appears when it is complete. The sound is copied.
    view
        `View.OVERLAY`: the video with the eyes tinted; `View.MASK`: black and white;
        `View.PANEL`: photo, mask and overlay side by side.
    faces
        As in `Predictor.predict`.
    smooth
        Share of the past, 0 up to 0.95.
    record
        File for JSON lines, one a frame (see docs/json.md; `time` is in seconds).

    Raises
    ------
    InputError
        If a file cannot be read or written, or PyAV is not installed.
    """
    if output.suffix.lower() not in FORMATS:
        raise InputError(output, f"ends in {output.suffix!r}", f"Expected {', '.join(FORMATS)}")
    if not 0 <= smooth <= 0.95:
        raise InputError("--smooth", f"is {smooth}", "Expected 0 to 0.95")
    av = _import_av()
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.tmp{output.suffix}")
    lines = record.open("w") if record else None
    try:
        reader = Webcam(source) if isinstance(source, int) else File(av, source)
        with (
            reader,
            av.open(str(temporary), "w", format=FORMATS[output.suffix.lower()]) as container,
        ):
            writer = Writer(container, reader)
            report = _segment_frames(predictor, reader, writer, view, faces, smooth, lines)
        temporary.replace(output)
        return report
    except av.FFmpegError as error:
        remedy = "Check the file, or try another ending of --output, such as .mkv"
        raise InputError(source, f"cannot be converted ({error.strerror})", remedy) from None
    finally:
        temporary.unlink(missing_ok=True)
        if lines:
            lines.close()


def _segment_frames(
    predictor: Predictor, reader: Any, writer: Writer, view: View, faces: Faces, smooth: float,
    lines: Any,
) -> VideoReport:  # fmt: skip
    follower, tracker = Follower(smooth), Tracker(predictor.finder)
    started, with_eyes, count = time.perf_counter(), 0, 0
    ahead: deque[tuple[Frame, Future[list[FoundFace]]]] = deque()
    encoding: Future[None] | None = None
    frames = reader.frames(writer.copy_sound)

    def find(rgb: RGB) -> list[FoundFace]:
        return [] if faces == "whole" else tracker.find(rgb)

    with (
        ThreadPoolExecutor(1) as pool,  # frame after frame: it follows faces
        ThreadPoolExecutor(1) as encoder,
        tqdm(total=reader.count, unit="frame", desc="video", disable=None) as bar,
    ):
        while True:
            # A webcam waits for no one: one frame at a time.
            while len(ahead) < (1 if reader.is_live else _AHEAD):
                frame = next(frames, None)
                if frame is None:
                    break
                ahead.append((frame, pool.submit(find, frame.rgb)))
            if not ahead:
                break
            frame, future = ahead.popleft()
            looks = predictor.look(frame.rgb, faces, follower.steady(future.result()))
            planes = follower.blend(looks, predictor.planes(frame.rgb, looks))
            prediction = predictor.assemble(frame.rgb.shape, looks, planes, faces, frame.rgb)
            count += 1
            with_eyes += bool(prediction.eyes)
            if lines:
                seconds = round(float(frame.pts * reader.time_base), 4)
                content = {"frame": count, "time": seconds, **prediction.to_dict(reader.name)}
                lines.write(json.dumps(content, separators=(",", ":")) + "\n")
            if encoding:
                encoding.result()
            encoding = encoder.submit(writer.write, frame, prediction, view)
            bar.update()
        if encoding:
            encoding.result()
        writer.finish()
    speed = count / (time.perf_counter() - started)
    return VideoReport(count, with_eyes, speed, reader.lost_sounds)


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        remedy = "pip install '.[video]', or pip install av"
        raise InputError("--video", "needs PyAV, which is not installed", remedy) from None
    return av
