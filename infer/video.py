"""Video and webcam: every frame segmented, the sound kept.

Faces are found ahead in a pool of threads, the network takes the faces of several frames as one
batch, and encoding runs beside it. Against flicker, faces are followed from frame to frame
(`infer.follow`).
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from infer.faces import FoundFace
from infer.follow import Follower
from infer.output import View, draw
from infer.predictor import Faces, Prediction, Predictor, Prepared
from infer.record import to_record
from preprocess.errors import InputError
from preprocess.image import RGB

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
_COPIED_SOUND = {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}  # what all three can hold
_AHEAD = 8


@dataclass(frozen=True)
class VideoReport:
    """What was done: frames, those with an eye, frames a second all in all, sound left out."""

    frames: int
    with_eyes: int
    frames_per_second: float
    lost_sounds: int = 0


@dataclass(frozen=True)
class _Frame:
    rgb: RGB
    pts: int


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
        Where a file cannot be read or written, or PyAV is not installed.
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
        reader = _Webcam(source) if isinstance(source, int) else _File(av, source)
        with (
            reader,
            av.open(str(temporary), "w", format=FORMATS[output.suffix.lower()]) as container,
        ):
            writer = _Writer(container, reader)
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
    predictor: Predictor, reader: Any, writer: _Writer, view: View, faces: Faces, smooth: float,
    lines: Any,
) -> VideoReport:  # fmt: skip
    follower, started, with_eyes, count = Follower(smooth), time.perf_counter(), 0, 0
    ahead: deque[tuple[_Frame, Future[list[FoundFace]]]] = deque()
    encoding: Future[None] | None = None
    frames = reader.frames(writer.copy_sound)

    def finder(rgb: RGB) -> list[FoundFace]:
        return [] if faces == "whole" else predictor.finder.find(rgb)

    with (
        ThreadPoolExecutor(2) as pool,
        ThreadPoolExecutor(1) as encoder,
        tqdm(total=reader.count, unit="frame", desc="video", disable=None) as bar,
    ):
        while True:
            # A webcam waits for no one: one frame at a time.
            while len(ahead) < (1 if reader.is_live else _AHEAD):
                frame = next(frames, None)
                if frame is None:
                    break
                ahead.append((frame, pool.submit(finder, frame.rgb)))
            if not ahead:
                break
            batch = [ahead.popleft() for _ in range(max(1, len(ahead) // 2))]
            found = [(frame, follower.steady(future.result())) for frame, future in batch]
            prepared = [(frame, predictor.prepare(frame.rgb, faces, at)) for frame, at in found]
            squares = [square for _, cut in prepared for square in cut.squares]
            planes = iter(predictor.probabilities(squares))
            for frame, cut in prepared:
                prediction = _assemble(predictor, follower, cut, planes)
                count += 1
                with_eyes += bool(prediction.eyes)
                if lines:
                    content = {"time": round(float(frame.pts * reader.time_base), 4),
                               **to_record(prediction, reader.name)}  # fmt: skip
                    lines.write(json.dumps(content) + "\n")
                if encoding:
                    encoding.result()
                encoding = encoder.submit(writer.write, frame, prediction, view)
                bar.update()
        if encoding:
            encoding.result()
        writer.finish()
    speed = count / (time.perf_counter() - started)
    return VideoReport(count, with_eyes, speed, reader.lost_sounds)


def _assemble(
    predictor: Predictor, follower: Follower, cut: Prepared,
    planes: Iterator[npt.NDArray[np.float32]],
) -> Prediction:  # fmt: skip
    own = [next(planes) for _ in cut.squares]
    if cut.whole:
        return predictor.assemble(cut, np.stack(own))
    remaining = iter(own)
    by_face = [next(remaining) if alignment else None for alignment in cut.alignments]
    blended = [plane for plane in follower.blend(cut.found, by_face) if plane is not None]
    none = np.zeros((0, predictor.spec.size, predictor.spec.size), np.float32)
    return predictor.assemble(cut, np.stack(blended) if blended else none)


class _File:
    """A video file: its frames upright, in order, and its sound."""

    is_live = False

    def __init__(self, av: Any, path: Path) -> None:
        try:
            self._container = av.open(str(path))
            self.video = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            reason = getattr(error, "strerror", None) or "no video in it"
            raise InputError(path, f"cannot be read ({reason})", "Give a video file") from None
        self.name = path.name
        self.video.thread_type = "AUTO"
        self.rate = self.video.average_rate or Fraction(25)
        self.time_base = self.video.time_base
        self.count = self.video.frames or None
        sounds = list(self._container.streams.audio)
        self.sounds = [s for s in sounds if s.codec_context.name in _COPIED_SOUND]
        self.lost_sounds = len(sounds) - len(self.sounds)

    def frames(self, copy_sound: Any) -> Iterator[_Frame]:
        """Yield the frames; sound that lies between them goes to `copy_sound`."""
        last = -1
        for packet in self._container.demux([self.video, *self.sounds]):
            if packet.stream.type == "audio":
                copy_sound(packet)
                continue
            for frame in packet.decode():
                rgb = frame.to_ndarray(format="rgb24")
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                pts = frame.pts if frame.pts is not None and frame.pts > last else last + 1
                last = pts
                yield _Frame(np.ascontiguousarray(np.rot90(rgb, turns)), pts)

    def __enter__(self) -> _File:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._container.close()


class _Webcam:
    """A webcam, until the user interrupts."""

    is_live = True
    rate, time_base = Fraction(30), Fraction(1, 1000)
    count = None
    sounds: tuple[Any, ...] = ()
    lost_sounds = 0

    def __init__(self, number: int) -> None:
        self.name = f"webcam {number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise InputError(f"--webcam {number}", "cannot be opened", "Check number and rights")

    def frames(self, _: Any) -> Iterator[_Frame]:
        """Yield what the camera sees, until Ctrl-C."""
        started, last = time.monotonic(), -1
        try:
            while True:
                there, bgr = self._capture.read()
                if not there:
                    return
                last = max(last + 1, round((time.monotonic() - started) * 1000))
                yield _Frame(np.ascontiguousarray(bgr[..., ::-1]), last)
        except KeyboardInterrupt:
            return

    def __enter__(self) -> _Webcam:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the camera."""
        self._capture.release()


class _Writer:
    """Encodes the drawn frames, and puts the sound beside them."""

    def __init__(self, container: Any, reader: Any) -> None:
        self._container, self._reader = container, reader
        self._stream: Any = None
        self._sounds = {s.index: container.add_stream_from_template(s) for s in reader.sounds}
        self._waiting: deque[Any] = deque()  # filled by the reader's thread, emptied by ours

    def copy_sound(self, packet: Any) -> None:
        """Put a packet of sound into the file, once its header is written."""
        if packet.dts is not None:
            packet.stream = self._sounds[packet.stream.index]
            self._waiting.append(packet)

    def write(self, frame: _Frame, prediction: Prediction, view: View) -> None:
        """Draw and encode a frame."""
        import av

        picture = draw(view, frame.rgb, prediction.probability, prediction.threshold)
        if view is View.OVERLAY:  # the right half of photo | overlay
            picture = picture[:, picture.shape[1] // 2 :]
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        height, width = picture.shape[:2]
        even = ((0, height % 2), (0, width % 2), (0, 0))
        picture = np.pad(picture, even, mode="edge")  # the colour planes have half the size
        if self._stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=self._reader.rate)
            self._stream.width, self._stream.height = picture.shape[1], picture.shape[0]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.time_base = self._reader.time_base
            if codec == "libx264":
                self._stream.options = {"crf": "18", "preset": "veryfast"}
        encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        encoded.pts, encoded.time_base = frame.pts, self._reader.time_base
        for packet in self._stream.encode(encoded):
            self._container.mux(packet)
        self._mux_sound()

    def finish(self) -> None:
        """Write what the encoder still holds."""
        if self._stream is not None:
            for packet in self._stream.encode():
                self._container.mux(packet)
        self._mux_sound()

    def _mux_sound(self) -> None:
        while self._waiting:
            self._container.mux(self._waiting.popleft())


def _import_av() -> Any:
    try:
        import av
    except ImportError:
        remedy = 'pip install "eye-segmentation[video]", or pip install av'
        raise InputError("--video", "needs PyAV, which is not installed", remedy) from None
    return av
