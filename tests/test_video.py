"""Video: every frame, the sound, and steadiness."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from common import Patch, call, fails, write_clip

from infer.cli import main
from infer.faces import FoundFace
from infer.follow import Follower, Tracker
from infer.frame import FaceFrame
from infer.predictor import Look
from preprocess.image import RGB, decode_rgb

av = pytest.importorskip("av", reason="PyAV is not installed")
FRAMES = 20


@pytest.fixture(scope="module")
def clip(genuine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    portrait = decode_rgb(sorted((genuine / "london-faces" / "images").iterdir())[5].read_bytes())
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    small = cv2.resize(portrait, (400, 400), interpolation=cv2.INTER_AREA)
    write_clip(path, np.asarray(small, np.uint8))
    return path


def read_clip(path: Path) -> tuple[list[RGB], list[float], int]:
    with av.open(str(path)) as container:
        sounds = len(container.streams.audio)
        frames = list(container.decode(video=0))
        return [f.to_ndarray(format="rgb24") for f in frames], [f.time for f in frames], sounds


def test_every_frame_is_segmented_and_the_sound_is_kept(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    done = call(main, "video", clip, "--output", output, "--json")
    assert done.exit_code == 0, done.stderr
    assert f"{FRAMES} frames, eyes in {FRAMES}" in done.stdout
    before, times, _ = read_clip(clip)
    after, new_times, sounds = read_clip(output)
    assert len(after) == FRAMES
    assert after[0].shape == before[0].shape
    assert new_times == pytest.approx(times, abs=0.01)
    assert sounds == 1
    greener = after[5][..., 1].astype(int) - before[5][..., 1]
    lines = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == pytest.approx(times, abs=0.01)
    assert [line["frame"] for line in lines] == list(range(1, FRAMES + 1))
    (face,) = lines[5]["faces"]
    assert len(face["eyes"]) == 2
    for eye in face["eyes"]:
        x, y = (int(v) for v in eye["centre"])
        assert greener[y - 2 : y + 3, x - 2 : x + 3].mean() > 15
    fails(call(main, "--video", clip, "--output", output), "exists already")  # as before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


def test_sound_that_cannot_be_copied_is_reported(tmp_path: Path) -> None:
    path, out = tmp_path / "raw.mkv", tmp_path / "mask.mp4"
    write_clip(path, np.full((400, 400, 3), 90, np.uint8), coding="pcm_s16le", layout="s16")
    assert read_clip(path)[2] == 1
    done = call(main, "video", path, "--output", out, "--write", "mask")
    assert done.exit_code == 0, done.stderr
    assert "1 sound track(s) left out" in done.stderr
    assert f"{FRAMES} frames, eyes in 0" in done.stdout
    frames, _, sounds = read_clip(out)
    assert (sounds, len(frames)) == (0, FRAMES)
    assert max(int(frame.max()) for frame in frames) < 30, "no eye is marked"


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    text = ("video", tmp_path / "text.mp4")
    for message, words in {
        "text.mp4: cannot be read": text,
        "none.mp4: does not exist": ("video", tmp_path / "none.mp4"),
        "ends in '.gif'": (*text, "--output", "x.gif"),
        "soft needs more than a video": (*text, "--write", "soft"),
        "together with something else": ("--video", "a.mp4", "--image", "b.jpg"),
        "--smooth: is 2": (*text, "--smooth", 2),
    }.items():
        fails(call(main, *words), message)
    assert [p.name for p in tmp_path.iterdir()] == ["text.mp4"]


def face(x: float, jitter: float = 0.0) -> FoundFace:
    points = np.array([[x, 50], [x + 40, 50], [x + 20, 70], [x + 5, 90], [x + 35, 90]]) + jitter
    return FoundFace((x - 30, 0, 100, 120), points.astype(np.float32), 0.9)


def test_following_steadies_a_face_that_stays_and_lets_go_of_one_that_moves() -> None:
    rng = np.random.default_rng(0)
    raw, steadied, planes = [], [], []
    follower = Follower(0.7)
    for _ in range(40):
        found = face(100, rng.normal(0, 1))
        (steady,) = follower.steady([found])
        look = Look(steady, FaceFrame.of_face(steady.landmarks, 256, 32))
        look.plane = rng.random((4, 4)).astype(np.float32)
        follower.blend([look])
        raw.append(found.landmarks[0, 0])
        steadied.append(steady.landmarks[0, 0])
        planes.append(look.plane)
    assert np.std(steadied[5:]) < 0.7 * np.std(raw[5:])
    assert np.std(planes[5:]) < 0.7 * np.sqrt(1 / 12)
    (moved,) = follower.steady([face(160)])
    assert moved.landmarks[0, 0] == pytest.approx(160, abs=1)
    alone = Follower(0.0)
    alone.steady([face(100)])
    (untouched,) = alone.steady([face(102)])
    assert untouched.landmarks[0, 0] == 102


def test_faces_are_searched_where_they_were_and_everywhere_if_one_is_lost() -> None:
    asked: list[tuple[int, ...]] = []
    there = [face(300.0), face(700.0)]

    class Finder:
        def find(self, rgb: RGB) -> list[FoundFace]:
            asked.append(rgb.shape[:2])
            return there if rgb.shape[1] == 1000 else near

    tracker, frame = Tracker(Finder()), np.zeros((500, 1000, 3), np.uint8)  # type: ignore[arg-type]
    near: list[FoundFace] = []
    assert tracker.find(frame) == there
    near = [face(125.0)]  # in the part around the first face, which begins at 175 of 1,000
    assert len(tracker.find(frame)) == 2
    assert asked[1][1] < 500
    near = []
    asked.clear()
    assert tracker.find(frame) == there
    assert asked[-1] == (500, 1000), "lost: searched for everywhere"


def test_without_pyav_the_remedy_is_named(monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for name in ("infer.container", "infer.video"):
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "a.mp4").touch()
    fails(call(main, "video", tmp_path / "a.mp4"), "needs PyAV", "pip install av")
