"""Frames and sound out of a video file or a webcam, and into a new file (PyAV)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from infer.output import Grey
from preprocess.errors import InputError
from preprocess.image import RGB

try:
    import av
except ImportError:
    remedy = "pip install '.[video]', or pip install av"
    raise InputError("video", "needs PyAV, which is not installed", remedy) from None

_COPIED_SOUND = {"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}  # what all three can hold
_BACK = Fraction(1, 10)  # seconds: a packet so much earlier than the last one begins another file


class File:
    """A video file: its frames upright, in order, and its sound."""

    ahead = 8  # frames that may be read while others are segmented
    ended_by: tuple[type[BaseException], ...] = ()

    def __init__(self, path: Path, max_megapixels: float) -> None:
        remedy = "Give a video file; playlists and addresses are not followed"
        if not path.is_file():
            raise InputError(path, "does not exist, or is no regular file", remedy)
        options = {"protocol_whitelist": "none"}
        self._open = ExitStack()
        try:
            # Python opens the file, so that a name is never an address, and FFmpeg no other file.
            file = self._open.enter_context(path.open("rb"))
            opened = av.open(file, options=options, metadata_errors="replace")
            self._container = self._open.enter_context(opened)
            self._video = self._container.streams.video[0]
            if self._video.codec_context is None or not self._video.time_base:
                raise IndexError
        except (av.FFmpegError, OSError, IndexError) as error:
            reason = getattr(error, "strerror", None) or "no video in it"
            self._open.close()
            raise InputError(path, f"cannot be read ({reason})", remedy) from None
        self.name, self._path, self._most = path.name, path, max_megapixels
        self._video.thread_type = "AUTO"
        self.rate = self._video.average_rate or Fraction(25)
        self.time_base = self._video.time_base
        self.count = self._video.frames or None
        sounds = self._container.streams.audio
        names = [sound.codec_context.name if sound.codec_context else "" for sound in sounds]
        self.sounds = [s for s, name in zip(sounds, names, strict=True) if name in _COPIED_SOUND]
        self.lost_sounds = len(sounds) - len(self.sounds)

    def frames(self, copy_sound: Any) -> Iterator[tuple[RGB, int]]:
        """Yield frames, H x W x 3 uint8, and times; sound between them goes to `copy_sound`."""
        step = max(1, round(1 / (self.rate * self.time_base)))  # from a frame to the next
        last = None
        self._check_size(self._video)
        for packet in self._in_order():
            if packet.stream.type == "audio":
                copy_sound(packet)
                continue
            for frame in packet.decode():
                self._check_size(frame)  # it may differ from the header's, and from the last one's
                rgb = frame.to_ndarray(format="rgb24")
                turns = round(getattr(frame, "rotation", 0) / 90) % 4
                if last is None:
                    last = frame.pts or 0
                elif frame.pts is None:
                    last += step
                else:
                    last = max(last + 1, frame.pts)
                yield np.ascontiguousarray(np.rot90(rgb, turns)), last

    def _check_size(self, shown: Any) -> None:
        if shown.width * shown.height > self._most * 1e6:
            problem = f"shows {shown.width} x {shown.height} pixels, over {self._most:g} megapixels"
            raise InputError(self._path, problem, "Scale it down, or raise --max-megapixels")

    def _in_order(self) -> Iterator[Any]:
        """Yield packets; if time starts again, as in joined files, it goes on instead."""
        ends: dict[int, Fraction] = {}
        shift = Fraction(0)
        for packet in self._container.demux([self._video, *self.sounds]):
            if packet.dts is not None:
                unit, stream = packet.time_base, packet.stream.index
                end = ends.get(stream, packet.dts * unit + shift)
                if packet.dts * unit + shift < end - _BACK:
                    shift = end - packet.dts * unit
                packet.dts += round(shift / unit)
                if packet.pts is not None:
                    packet.pts += round(shift / unit)
                ends[stream] = (packet.dts + (packet.duration or 0)) * unit
            yield packet

    def close(self) -> None:
        """Close the file."""
        self._open.close()


class Webcam:
    """A webcam, until the user interrupts; otherwise as `File`."""

    ahead = 1  # it waits for no one
    ended_by = (KeyboardInterrupt,)
    rate, time_base = Fraction(30), Fraction(1, 1000)
    count, lost_sounds = None, 0
    sounds: tuple[Any, ...] = ()

    def __init__(self, number: int) -> None:
        self.name = f"webcam {number}"
        self._capture = cv2.VideoCapture(number)
        if not self._capture.isOpened():
            raise InputError(f"--webcam {number}", "cannot be opened", "Check number and rights")

    def frames(self, _: Any) -> Iterator[tuple[RGB, int]]:
        """Yield what the camera sees."""
        started, last = time.monotonic(), -1
        while True:
            there, bgr = self._capture.read()
            if not there:
                return
            last = max(last + 1, round((time.monotonic() - started) * 1000))
            yield np.ascontiguousarray(bgr[..., ::-1]), last

    def close(self) -> None:
        """Let go of the camera."""
        self._capture.release()


class Writer:
    """Encodes pictures, and puts the sound of their source beside them."""

    def __init__(self, file: BinaryIO, kind: str, source: File | Webcam) -> None:
        self._container, self._source = av.open(file, "w", format=kind), source
        self._stream: Any = None
        add = self._container.add_stream_from_template
        self._sounds = {sound.index: add(sound) for sound in source.sounds}
        self._waiting: deque[Any] = deque()  # filled by the reader's thread, emptied by ours

    def copy_sound(self, packet: Any) -> None:
        """Put a packet of sound into the file, once its header is written."""
        if packet.dts is not None:
            packet.stream = self._sounds[packet.stream.index]
            self._waiting.append(packet)

    def write(self, picture: Grey, pts: int) -> None:
        """Encode a picture, grey or RGB."""
        if picture.ndim == 2:
            picture = np.repeat(picture[..., None], 3, axis=2)
        height, width = picture.shape[:2]
        even = ((0, height % 2), (0, width % 2), (0, 0))
        picture = np.pad(picture, even, mode="edge")  # the colour planes have half the size
        if self._stream is None:
            self._stream = self._open(*picture.shape[:2])
        encoded = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        encoded.pts, encoded.time_base = pts, self._source.time_base
        self._mux(self._stream.encode(encoded))

    def close(self) -> None:
        """Write what the encoder still holds, and complete the file."""
        with self._container:
            self._mux(self._stream.encode() if self._stream else ())

    def _open(self, height: int, width: int) -> Any:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = self._container.add_stream(codec, rate=self._source.rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = self._source.time_base
        if codec == "libx264":
            stream.options = {"crf": "18", "preset": "veryfast"}
        return stream

    def _mux(self, packets: Iterable[Any]) -> None:
        for packet in packets:
            self._container.mux(packet)
        while self._waiting:
            self._container.mux(self._waiting.popleft())


@contextmanager
def names_errors(source: object) -> Iterator[None]:
    """Turn what FFmpeg refuses into an `InputError`."""
    try:
        yield
    except av.FFmpegError as error:
        remedy = "Check the file, or try another ending of --output, such as .mkv"
        raise InputError(source, f"cannot be converted ({error.strerror})", remedy) from None
