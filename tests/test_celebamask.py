"""What is in a source: both layouts, as folder and as zip, and what is left out of it."""

import os
import re
import zipfile
from pathlib import Path

import pytest
from common import IMAGES, MASKS

from preprocess.celebamask import Dropped, Plan, read_plan, split_of_key, split_of_orig_idx
from preprocess.errors import DecodeError, InputError

MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


def put(root: Path, *names: str) -> Path:
    """Write files whose content is their own name; nothing here decodes a picture."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def official(root: Path, count: int = 4) -> Path:
    put(root, *(f"{IMAGES}/{i}.jpg" for i in range(count)))
    return put(root, *(f"{MASKS}/0/{i:05d}_{eye}_eye.png" for i in range(count) for eye in "lr"))


def mapped(root: Path, *lines: str) -> Path:
    (root / MAPPING).write_text("\n".join(["idx      orig_idx  orig_file", *lines, ""]))
    return root


def zipped(root: Path, archive: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in sorted(root.rglob("*"), reverse=True):
            file.write(path, f"CelebAMask-HQ/{path.relative_to(root).as_posix()}")
    return archive


def contents(plan: Plan) -> dict[str, tuple[str, list[bytes]]]:
    return {s.key: (s.split, [m.read(plan.source) for m in s.members]) for s in plan.samples}


def splits(plan: Plan) -> dict[str, str]:
    return {sample.key: sample.split for sample in plan.samples}


def test_official_layout_of_a_folder(faces: Path) -> None:
    plan = read_plan(faces)
    assert (plan.split_rule, plan.dropped, plan.notes) == ("official", (), ())
    assert any(faces.rglob("*_eye_g.png")), "there are masks of other parts, which are not listed"
    for number, sample in enumerate(plan.samples):
        assert (sample.key, sample.image.name) == (f"{number:05d}", f"{IMAGES}/{number}.jpg")
        there = sorted((faces / MASKS / "0").glob(f"{number:05d}_?_eye.png"))
        assert sorted(sample.masks) == [p.name[6:11] for p in there]
        assert [m.read(faces) for m in sample.members[1:]] == [p.read_bytes() for p in there]
    assert len(plan.samples) == 24


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_holds_what_its_folder_does(method: int, tmp_path: Path) -> None:
    root = mapped(official(tmp_path / "set"), "9 170000 x", *(f"{i} {i}" for i in range(4)))
    (root / IMAGES / "9.jpg").write_bytes(b"")
    plan = read_plan(zipped(root, tmp_path / "set.zip", method))
    assert {s.image.method for s in plan.samples[:4]} == {method}
    assert contents(plan) == contents(read_plan(root))
    assert splits(plan)["00009"] == "val"
    other = zipped(root, tmp_path / "other.zip", zipfile.ZIP_BZIP2)
    with pytest.raises(DecodeError, match=r"other\.zip:.* is packed with zip method 12.*deflate"):
        read_plan(other)


def test_a_long_extra_field_and_bytes_in_front_of_the_zip(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        info = zipfile.ZipInfo(f"{IMAGES}/1.jpg")
        info.extra = b"\x99\x99\xa0\x0f" + bytes(4000)
        file.writestr(info, b"first" * 300)
        file.writestr(f"{MASKS}/0/00001_l_eye.png", b"second")
    archive.write_bytes(b"#!/bin/unzip\n" + archive.read_bytes())
    (sample,) = read_plan(archive).samples
    assert [m.read(archive) for m in sample.members] == [b"first" * 300, b"second"]


@pytest.mark.parametrize("method", METHODS)
def test_damaged_members_are_errors_that_name_zip_and_member(method: int, tmp_path: Path) -> None:
    root = official(tmp_path / "set")
    (root / IMAGES / "0.jpg").write_bytes(os.urandom(3000))
    archive = zipped(root, tmp_path / "a.zip", method)
    member, whole = read_plan(archive).samples[0].image, archive.read_bytes()
    for at in (member.offset, member.offset + 200, member.offset + 2500):
        broken = bytearray(whole)
        broken[at] ^= 8
        archive.write_bytes(broken)
        with pytest.raises(DecodeError, match=r"a\.zip:CelebAMask-HQ/.*/0\.jpg: is damaged"):
            member.read(archive)
    archive.write_bytes(whole[: member.offset + 1000])
    with pytest.raises(DecodeError, match="is damaged in the zip"):
        member.read(archive)


def test_damaged_lists_of_a_zip_raise_nothing_but_input_errors(tmp_path: Path) -> None:
    whole = zipped(official(tmp_path / "set", 2), tmp_path / "a.zip").read_bytes()
    refused = 0
    for number in range(whole.index(b"PK\x01\x02"), len(whole), 2):
        broken = bytearray(whole)
        broken[number] ^= 0xC1
        (tmp_path / "b.zip").write_bytes(broken)
        try:
            contents(read_plan(tmp_path / "b.zip"))
        except InputError:
            refused += 1
    assert refused > 20


def test_an_entry_without_a_name_is_passed_over(tmp_path: Path) -> None:
    archive, name = zipped(official(tmp_path / "set", 2), tmp_path / "a.zip"), b"AB12name"
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name.decode(), b"?")
    whole = bytearray(archive.read_bytes())
    at = whole.rindex(name)  # in the list; make its name an extra field
    whole[at : at + 4] = b"AB\4\0"
    whole[at - 18 : at - 14] = b"\0\0\x08\0"
    archive.write_bytes(whole)
    assert len(read_plan(archive).samples) == 2


def test_a_zip_replaced_by_another_is_read_anew(tmp_path: Path) -> None:
    first, second = official(tmp_path / "1", 3), official(tmp_path / "2", 5)
    (second / IMAGES / "0.jpg").write_bytes(bytes(5000))
    archive = zipped(first, tmp_path / "a.zip")
    assert contents(read_plan(archive)) == contents(read_plan(first))
    zipped(second, tmp_path / "b.zip").replace(archive)
    assert contents(read_plan(archive)) == contents(read_plan(second))


def test_enclosing_folders_and_what_macos_leaves(tmp_path: Path) -> None:
    official(tmp_path / "a" / "b" / "CelebAMask-HQ", 2)
    put(tmp_path, f"a/b/CelebAMask-HQ/{IMAGES}/._0.jpg", "a/.DS_Store")
    archive = zipped(tmp_path / "a", tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(f"__MACOSX/{IMAGES}/._0.jpg", b"resource fork")
    for source, left_out in ((tmp_path / "a", []), (archive, ["._0.jpg"])):
        plan = read_plan(source)
        assert [s.key for s in plan.samples] == ["00000", "00001"]
        assert [row.key for row in plan.dropped] == left_out


def test_mapping_decides_split_and_leaves_out_what_it_does_not_list(tmp_path: Path) -> None:
    limits = {0: "train", 162_769: "train", 162_770: "val", 182_636: "val", 182_637: "test"}
    assert {number: split_of_orig_idx(number) for number in limits} == limits
    mapped(official(tmp_path), "3  100  000101.jpg", "0 162770 162771.jpg", "1 182637 x", "")
    plan = read_plan(tmp_path)
    assert splits(plan) == {"00000": "val", "00001": "test", "00003": "train"}
    assert plan.dropped == (Dropped("00002", f"not listed in {MAPPING}"),)


@pytest.mark.parametrize("line", ["1", "1 a 000002.jpg", "x 1 000002.jpg", "-1 2 3"])
def test_a_line_of_the_mapping_that_cannot_be_read_is_shown(line: str, tmp_path: Path) -> None:
    mapped(official(tmp_path), "0 1 000002.jpg", line)
    with pytest.raises(InputError, match=rf"mapping\.txt, line 3: reads {line!r}\. Expected `idx"):
        read_plan(tmp_path)


def test_without_a_mapping_the_split_is_a_stable_hash_and_said_aloud(tmp_path: Path) -> None:
    plan = read_plan(official(tmp_path, 6))
    assert plan.split_rule == "hash"
    assert "by a hash of the id" in plan.notes[0]
    assert splits(plan) == {f"{i:05d}": split_of_key(f"{i:05d}") for i in range(6)}
    # these very values must never change: photographs would wander from train to test
    fixed = {1: "train", 103: "train", 540: "val", 203: "val", 0: "test"}  # close to the limits
    assert {i: split_of_key(f"{i:05d}") for i in fixed} == fixed
    many = [split_of_key(str(i)) for i in range(4000)]
    assert [round(many.count(name) / 400) for name in ("train", "val", "test")] == [8, 1, 1]


def test_what_is_left_out_is_listed_with_the_reason(tmp_path: Path) -> None:
    put(official(tmp_path, 2), f"{IMAGES}/face.jpg", f"{IMAGES}/notes.txt", f"{IMAGES}/1.png")
    put(tmp_path, f"{MASKS}/3/07001_l_eye.png", f"{MASKS}/0/00000_l_eye_old.png")
    put(tmp_path, f"{MASKS}/7/00000_l_eye.png", f"{IMAGES}/5.jpg")  # 5: no eye is visible
    put(tmp_path, f"{IMAGES}/6.JPG", f"{MASKS}/0/00006_r_eye.png")
    plan = read_plan(tmp_path)
    names = [sample.image.name.rpartition("/")[2] for sample in plan.samples]
    assert names == ["0.jpg", "1.jpg", "5.jpg", "6.JPG"]
    assert [len(sample.masks) for sample in plan.samples] == [2, 2, 0, 1]
    assert plan.samples[0].masks["l_eye"].name == f"{MASKS}/0/00000_l_eye.png"
    assert {(row.key, row.reason.partition(",")[0]) for row in plan.dropped} == {
        ("face.jpg", "image name is not a number"),
        ("07001", "mask without an image (7001.jpg is missing)"),
        ("00001", f"{IMAGES}/1.png has the id of {IMAGES}/1.jpg"),
        ("00000", f"{MASKS}/7/00000_l_eye.png has the id of {MASKS}/0/00000_l_eye.png"),
    }


@pytest.mark.parametrize("folder", ["eye_masks", "masks"])
def test_pairs_of_images_and_masks(folder: str, tmp_path: Path) -> None:
    put(tmp_path / "set", "images/A b.jpg", f"{folder}/A b.png", "images/c.webp", f"{folder}/c.png")
    put(tmp_path / "set", "images/alone.jpg", f"{folder}/lost.png", "images/a-b.png")
    put(tmp_path / "set", f"{folder}/a-b.png", "images/c.png")
    for source in (tmp_path / "set", zipped(tmp_path / "set", tmp_path / "a.zip")):
        plan = read_plan(source)
        images = {s.key: s.image.name for s in plan.samples}
        assert {key: name.rpartition("/")[2] for key, name in images.items()} == {
            "a-b": "A b.jpg", "c": "c.png",
        }  # fmt: skip
        assert all(list(s.masks) == ["eye"] for s in plan.samples)
        webp = images["c"].replace(".png", ".webp")
        assert {row.key: row.reason.partition(" (")[0] for row in plan.dropped} == {
            "c": f"{webp} has the id of {images['c']}, which was taken",
            "lost": "mask without an image",
            "alone": "image without a mask",
            "a-b": f"its key 'a-b' is taken by {images['a-b']}",
        }
        assert "hash of the name" in plan.notes[0]


def test_keys_of_any_name_fit_into_tar_headers_and_stay_apart(tmp_path: Path) -> None:
    stems = ["x" * 150, "x" * 149 + "y", "写真一", "写真二", "photo 1.final"]
    put(tmp_path, *(f"images/{s}.jpg" for s in stems), *(f"masks/{s}.png" for s in stems))
    plan = read_plan(tmp_path)
    keys = {s.key for s in plan.samples}
    assert (len(keys), plan.dropped) == (5, ())
    assert "photo-1-final" in keys
    assert all(re.fullmatch("[a-z0-9_-]{1,95}", key) for key in keys)


def test_bad_paths_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK\x05\x06 and no more")
    put(tmp_path, "empty/readme.txt", f"bare/{IMAGES}/0.jpg", "alone/images/a.jpg")
    for name, problem in {
        "nowhere": "does not exist",
        "a.zip": "is no zip",
        "empty": "holds neither CelebA-HQ-img/ nor images/",
        "bare": "has images but no eye mask under CelebAMask-HQ-mask-anno/",
        "alone": r"holds no image that can be packed \(1 left out; the first, a: image without",
    }.items():
        with pytest.raises(InputError, match=rf"^{tmp_path / name}: {problem}.*\. \S.*$"):
            read_plan(tmp_path / name)
    plan = read_plan(official(tmp_path / "set", 2))
    (tmp_path / "set" / IMAGES / "1.jpg").unlink()
    with pytest.raises(DecodeError, match=r"1\.jpg: cannot be read \(No such file"):
        plan.samples[1].image.read(plan.source)
