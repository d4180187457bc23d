"""Frames and sound out of a video file or a webcam, and into a new file (PyAV)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from infer.output import View
from infer.predictor import Prediction
from preprocess.errors import InputError
from preprocess.image import RGB

_COPIED_SOUND = {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}  # what all three can hold


@dataclass(frozen=True)
class Frame:
    """A frame, H x W x 3 uint8 RGB, and its time in units of the reader's `time_base`."""

    rgb: RGB
    pts: int


class File:
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

    def frames(self, copy_sound: Any) -> Iterator[Frame]:
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
                yield Frame(np.ascontiguousarray(np.rot90(rgb, turns)), pts)

    def __enter__(self) -> File:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._container.close()


class Webcam:
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

    def frames(self, _: Any) -> Iterator[Frame]:
        """Yield what the camera sees, until Ctrl-C."""
        started, last = time.monotonic(), -1
        try:
            while True:
                there, bgr = self._capture.read()
                if not there:
                    return
                last = max(last + 1, round((time.monotonic() - started) * 1000))
                yield Frame(np.ascontiguousarray(bgr[..., ::-1]), last)
        except KeyboardInterrupt:
            return

    def __enter__(self) -> Webcam:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the camera."""
        self._capture.release()


class Writer:
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

    def write(self, frame: Frame, prediction: Prediction, view: View) -> None:
        """Draw and encode a frame."""
        import av

        picture = prediction.draw(view)
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
