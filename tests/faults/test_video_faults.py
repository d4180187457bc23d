"""Videos that are odd, damaged or crafted, and runs that fail halfway."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import Blind, call, fails, write_clip

from infer import Predictor
from infer.cli import main
from preprocess.image import RGB

av = pytest.importorskip("av", reason="PyAV is not installed")
GREY = np.full((400, 400, 3), 90, np.uint8)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infer.predictor.open_network", lambda *_: Blind())
    monkeypatch.setattr("infer.faces.FaceFinder.find", lambda *_: [])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty grey frames, ten a second, with sound."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, GREY)
    return path


def times(path: Path, kind: str = "video") -> list[float]:
    with av.open(str(path)) as container:
        stream = next(iter(getattr(container.streams, kind)))
        if kind == "video":
            return [float(frame.time) for frame in container.decode(stream)]
        return [float(p.dts * p.time_base) for p in container.demux(stream) if p.dts is not None]


def recorded(path: Path) -> list[float]:
    return [json.loads(row)["time"] for row in path.with_suffix(".jsonl").read_text().splitlines()]


def test_frames_without_times_are_a_frame_apart(tmp_path: Path) -> None:
    source, out = tmp_path / "raw.h264", tmp_path / "out.mp4"
    with av.open(str(source), "w", format="h264") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(GREY[:240, :320]), format="rgb24")
        for packet in [p for _ in range(6) for p in video.encode(frame)] + video.encode():
            container.mux(packet)
    assert call(main, "video", source, "--output", out, "--json").exit_code == 0
    gaps = np.diff(times(out))
    assert len(gaps) == 5
    assert gaps == pytest.approx(1 / 25, abs=0.002), "what FFmpeg takes for such a stream"
    assert np.diff(recorded(out)) == pytest.approx(1 / 25, abs=0.002)


@pytest.mark.parametrize("sound", [True, False])
def test_times_that_start_again_go_on(sound: bool, tmp_path: Path) -> None:
    write_clip(tmp_path / "one.ts", GREY, sound=sound)
    (tmp_path / "joined.ts").write_bytes((tmp_path / "one.ts").read_bytes() * 3)
    out = tmp_path / "out.mp4"
    done = call(main, "video", tmp_path / "joined.ts", "--output", out, "--json")
    assert done.exit_code == 0, done.stderr
    for found in (times(out), recorded(out)):
        assert len(found) == 60
        assert np.diff(found) == pytest.approx(0.1, abs=0.03)
    if sound:
        heard = times(out, "audio")
        assert np.diff(heard).min() > 0
        assert heard[-1] - heard[0] == pytest.approx(6, abs=0.3)


def test_a_title_of_another_coding_does_no_harm(clip: Path, tmp_path: Path) -> None:
    titled, out = tmp_path / "titled.mp4", tmp_path / "out.mp4"
    with av.open(str(clip)) as source, av.open(str(titled), "w") as container:
        container.metadata["title"] = "Caf__"
        streams = {s.index: container.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                container.mux(packet)
    titled.write_bytes(titled.read_bytes().replace(b"Caf__", "Café\xa0".encode("latin-1")))
    done = call(main, "video", titled, "--output", out)
    assert done.exit_code == 0, done.stderr
    assert len(times(out)) == 20


def test_sound_of_an_unknown_coding_is_left_out_and_named(clip: Path, tmp_path: Path) -> None:
    source = tmp_path / "odd.mp4"
    source.write_bytes(clip.read_bytes().replace(b"mp4a", b"xyzq").replace(b"esds", b"free"))
    done = call(main, "video", source, "--output", tmp_path / "out.mp4")
    assert done.exit_code == 0, done.stderr
    assert "1 sound track(s) left out" in done.stderr


def test_a_rerun_that_fails_keeps_what_was_there_and_blocks_nothing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, record = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    words = ("video", clip, "--output", out, "--json")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", str(out))

    with monkeypatch.context() as broken:
        broken.setattr("infer.container.Writer.write", fail)
        fails(call(main, *words), "No space left on device")
    assert list(tmp_path.iterdir()) == []
    assert call(main, *words).exit_code == 0
    before = out.read_bytes(), record.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr("infer.container.Writer.write", fail)
        fails(call(main, *words, "--overwrite"), "No space left on device")
    assert (out.read_bytes(), record.read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_is_never_an_address_nor_a_pattern(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["http:x.mp4", "concat:a.mp4|b.mp4", "pipe:0", "subfile,,:x.mp4", "%03d.mp4", "-.mp4"]
    for number, name in enumerate([*names, os.fsdecode(b"l\xff\n.mp4")]):
        Path(name).write_bytes(clip.read_bytes())
        done = call(main, "video", "--output", f"{number}.mp4", "--", name)
        assert done.exit_code == 0, done.stderr
        assert len(times(Path(f"{number}.mp4"))) == 20


def test_files_that_refer_to_others_are_not_followed(clip: Path, tmp_path: Path) -> None:
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
    kinds = {"list.m3u8": playlist, "cat.ffconcat": "ffconcat version 1.0\nfile '{}'\n",
             "list.mp4": playlist, "cat.mp4": "ffconcat version 1.0\nfile '{}'\n"}  # fmt: skip
    for name, text in kinds.items():
        for target in (clip, clip.name, f"file:{clip}"):
            (tmp_path / clip.name).write_bytes(clip.read_bytes())
            (tmp_path / name).write_text(text.format(target))
            done = call(main, "video", tmp_path / name, "--output", tmp_path / "out.mkv")
            fails(done, f"{name}: cannot be read", "playlists and addresses are not followed")
    assert not (tmp_path / "out.mkv").exists()


def test_ctrl_c_leaves_nothing_of_a_video(tmp_path: Path) -> None:
    wide = np.full((120, 1400, 3), 90, np.uint8)
    write_clip(tmp_path / "long.mkv", wide, frames=600, width=64, height=48, sound=False)
    words = [sys.executable, "-m", "infer", "video", str(tmp_path / "long.mkv"), "--faces", "whole"]
    run = subprocess.Popen([*words, "--json"], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not any(tmp_path.glob(".*.mp4.*.tmp")):
        assert run.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.splitlines() == ["Interrupted. What was finished is kept."]
    assert [path.name for path in tmp_path.iterdir()] == ["long.mkv"]


def test_a_video_of_too_many_pixels_is_refused(clip: Path, tmp_path: Path) -> None:
    words = ("video", clip, "--output", tmp_path / "out.mp4", "--max-megapixels")
    fails(call(main, *words, 0.05), "clip.mp4: shows 320 x 240 pixels, over 0.05 megapixels")
    assert list(tmp_path.iterdir()) == []
    assert call(main, *words, 0.08).exit_code == 0


class Camera:
    """Shows grey for ever."""

    def __init__(self, _: int) -> None:
        self.isOpened = lambda: True
        self.release = lambda: None

    def read(self) -> tuple[bool, RGB]:
        return True, np.full((64, 96, 3), 90, np.uint8)


def test_ctrl_c_completes_the_file_of_a_webcam_whenever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    see = Predictor.see

    def interrupted(self: Predictor, *args: Any) -> None:
        seen.append(args)
        if len(seen) == 4:
            raise KeyboardInterrupt
        see(self, *args)

    monkeypatch.setattr("infer.container.cv2.VideoCapture", Camera)
    monkeypatch.setattr(Predictor, "see", interrupted)
    out = tmp_path / "cam.mp4"
    done = call(main, "video", "--webcam", 0, "--output", out)
    assert done.exit_code == 0, done.stderr
    assert f"{out}: 3 frames" in done.stdout
    assert len(times(out)) == 3
    assert Fraction(0) <= times(out)[0] < 1
