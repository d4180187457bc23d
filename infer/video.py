"""Video and webcam: every frame segmented, the sound kept.

Finding, the network and encoding run beside each other. Faces are found where they were in the
frame before, and searched for everywhere only now and then; their masks are averaged against
flicker (`infer.follow`).
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from infer.container import File, Webcam, Writer, names_errors
from infer.faces import FoundFace
from infer.follow import Follower, Tracker
from infer.output import Prediction, View
from infer.predictor import Faces, Predictor
from infer.record import to_line
from preprocess.errors import InputError
from preprocess.files import atomic_file
from preprocess.image import RGB

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}


@dataclass(frozen=True)
class VideoReport:
    """What was done: frames, those with an eye, frames a second all in all, sound left out."""

    frames: int
    with_eyes: int
    frames_per_second: float
    lost_sounds: int


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
    source
        A file that FFmpeg reads, or the number of a webcam.
    output
        Ending in .mp4, .mov or .mkv; appears when it is complete. The sound is copied.
    view
        `View.OVERLAY`: the video with the eyes tinted; `View.MASK`: black and white;
        `View.PANEL`: photo, mask and overlay side by side.
    smooth
        Share of the past, 0 up to 0.95.
    record
        File for JSON lines, one a frame (see docs/json.md; `time` is in seconds).

    Raises
    ------
    InputError
        If a file cannot be read or written.
    """
    kind = FORMATS.get(output.suffix.lower())
    if kind is None:
        raise InputError(output, f"ends in {output.suffix!r}", f"Expected {', '.join(FORMATS)}")
    if not 0 <= smooth <= 0.95:
        raise InputError("--smooth", f"is {smooth}", "Expected 0 to 0.95")
    with (
        names_errors(source),
        closing(
            Webcam(source) if isinstance(source, int) else File(source, predictor.max_megapixels)
        ) as reader,
        atomic_file(record) if record else nullcontext() as lines,
        atomic_file(output) as file,
        closing(Writer(file, kind, reader)) as writer,
    ):
        return _segment_frames(predictor, reader, writer, view, faces, smooth, lines)


def _segment_frames(
    predictor: Predictor, reader: File | Webcam, writer: Writer, view: View, faces: Faces,
    smooth: float, lines: BinaryIO | None,
) -> VideoReport:  # fmt: skip
    follower, tracker = Follower(smooth), Tracker(predictor.finder)
    started, with_eyes, count = time.perf_counter(), 0, 0
    ahead: deque[tuple[RGB, int, Future[list[FoundFace]]]] = deque()
    encoding: Future[None] | None = None
    frames = reader.frames(writer.copy_sound)

    def encode(prediction: Prediction, pts: int) -> None:
        picture = prediction.draw(view)
        if view is View.OVERLAY:  # the right half of photo | overlay
            picture = picture[:, picture.shape[1] // 2 :]
        writer.write(picture, pts)

    with (
        ThreadPoolExecutor(1) as pool,  # frame after frame: it follows faces
        ThreadPoolExecutor(1) as encoder,
        tqdm(total=reader.count, unit="frame", desc="video", disable=None) as bar,
        suppress(*reader.ended_by),
    ):
        while True:
            while len(ahead) < reader.ahead and (frame := next(frames, None)):
                search = (lambda _: []) if faces == "whole" else tracker.find
                ahead.append((*frame, pool.submit(search, frame[0])))
            if not ahead:
                break
            rgb, pts, found = ahead.popleft()
            looks = predictor.look(rgb, faces, follower.steady(found.result()))
            predictor.see(rgb, looks)
            follower.blend(looks)
            prediction = predictor.assemble(rgb.shape, looks, faces, rgb)
            count += 1
            with_eyes += bool(prediction.eyes)
            if lines:
                seconds = round(float(pts * reader.time_base), 4)
                record = {"frame": count, "time": seconds, **prediction.to_dict(reader.name)}
                lines.write(to_line(record))
            if encoding:
                encoding.result()
            encoding = encoder.submit(encode, prediction, pts)
            bar.update()
    if encoding:
        encoding.result()
    speed = count / (time.perf_counter() - started)
    return VideoReport(count, with_eyes, speed, reader.lost_sounds)
