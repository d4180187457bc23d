"""Damaged files of every format end in a result or an `InputError`: never a crash, never for long.

EYES_FUZZ sets how many mutations of each format are tried (`make faults`); EYES_SEED, which.
"""

import os
from pathlib import Path

import pytest
from common import limited

from preprocess.check import check
from preprocess.manifest import PackSettings
from preprocess.pack import PackConfig, pack

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file.*tar:ResourceWarning")

ROUNDS = int(os.environ.get("EYES_FUZZ", "200"))
SEED = int(os.environ.get("EYES_SEED", "0"))

# What runs in a process of its own, because native code could end it; it prints how many were
# decoded and how many refused.
TRIES = """
import io, os, random, struct, sys, time, warnings
from pathlib import Path
from preprocess.errors import InputError

mutations = Path(sys.argv[1])
rounds, seed = int(sys.argv[2]), int(sys.argv[3])

def mutated(data, chance):
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 6])):
        at = chance.randrange(min(len(data), chance.choice([64, 300, len(data)])))
        how = chance.randrange(6)
        if how == 0:
            data[at] = chance.choice([0, 1, 127, 128, 255])
        elif how == 1:
            data[at] ^= 1 << chance.randrange(8)
        elif how == 2:
            del data[at : at + chance.choice([1, 4, 100])]
        elif how == 3:
            data[at:at] = data[at : at + chance.choice([1, 4, 100])]
        elif how == 4:
            value = chance.choice([0, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1])
            data[at : at + 4] = struct.pack(chance.choice("<>") + "I", value)
        else:
            data = data[:at] + bytes(chance.choice([0, 7]))
        if not data:
            data = bytearray(b"?")
    return bytes(data)

def tried(data, read):
    chance, done, refused = random.Random(f"{seed} {sys.argv[4]}"), 0, 0
    for number in range(rounds):
        broken = mutated(data, chance)
        mutations.write_bytes(broken)  # what is left after a crash
        started = time.process_time()
        try:
            read(broken)
            done += 1
        except InputError:
            refused += 1
        assert time.process_time() - started < 5, f"mutation {number} took too long"
    mutations.unlink()
    print(done, refused)
"""

PICTURES = """
from preprocess.image import decode_fitted, decode_rgb, orientation
from preprocess.mask import decode_label, decode_mask

def read(data):
    first = None
    for decode in (decode_rgb, decode_mask, lambda d: decode_fitted(d, 32),
                   lambda d: decode_label(d, "x")):
        try:
            decode(data)
        except InputError as error:
            first = first or error
    assert 1 <= orientation(data) <= 8
    if first:
        raise first

from PIL import Image
tags = Image.Exif()
tags[0x0112] = 6
picture = Image.linear_gradient("L").resize((48, 40))
def encoded(kind, mode="L", **options):
    file = io.BytesIO()
    picture.convert(mode).save(file, kind, **options)
    return file.getvalue()
"""

FORMATS = {
    "jpeg": "tried(encoded('JPEG', 'RGB', exif=tags), read)",
    "jpeg-progressive": "tried(encoded('JPEG', 'RGB', progressive=True), read)",
    "png": "tried(encoded('PNG', exif=tags), read)",
    "png-rgb": "tried(encoded('PNG', 'RGB'), read)",
    "webp": "tried(encoded('WEBP', 'RGBA', lossless=True, exif=tags), read)",
    "gif": "tried(encoded('GIF', 'P'), read)",
    "tiff": "tried(encoded('TIFF', 'RGB', compression='tiff_lzw'), read)",
}

ZIP = """
import tempfile, zipfile
from preprocess.celebamask import read_plan

with tempfile.TemporaryDirectory() as folder:
    archive = Path(folder, "a.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for number in range(3):
            file.writestr(f"CelebA-HQ-img/{number}.jpg", bytes(300))
            file.writestr(f"CelebAMask-HQ-mask-anno/0/{number:05d}_l_eye.png", b"?" * 9)
        file.writestr("CelebA-HQ-to-CelebA-mapping.txt", "0 1 a\\n1 170000 b\\n2 190000 c\\n")
    # Most of what matters is at the end: the mutations are of the reversed bytes.
    def read(data):
        archive.write_bytes(data[::-1])
        for sample in read_plan(archive).samples:
            for member in sample.members:
                member.read(archive)
    tried(archive.read_bytes()[::-1], read)
"""

MAPPING = """
import tempfile
from preprocess.celebamask import read_plan

with tempfile.TemporaryDirectory() as folder:
    for name in ("CelebA-HQ-img/1.jpg", "CelebAMask-HQ-mask-anno/0/00001_l_eye.png"):
        Path(folder, name).parent.mkdir(parents=True)
        Path(folder, name).write_bytes(b"?")
    mapping = Path(folder, "CelebA-HQ-to-CelebA-mapping.txt")
    def read(data):
        mapping.write_bytes(data)
        read_plan(Path(folder))
    tried(b"idx orig_idx orig_file\\n1 170000 b.jpg\\n2 190000 c.jpg\\n" * 3, read)
"""

PACK = """
from dataclasses import replace

import preprocess.check
from preprocess.check import check
from preprocess.files import file_sha256
from preprocess.manifest import Manifest
from preprocess.shards import index_path, read_samples

preprocess.check.dali_is_installed = lambda: False  # it would take seconds each time
root = Path(sys.argv[5])
manifest = Manifest.load(root)
(shard,) = manifest.splits["val"].shards
path = root / shard.name

def fitting(_):
    changed = replace(shard, sha256=file_sha256(path), index_sha256=file_sha256(index_path(path)))
    return replace(manifest, splits={"val": replace(manifest.splits["val"], shards=(changed,))})

preprocess.check.Manifest.load = fitting

def read(data):
    target.write_bytes(data)
    if check(root).faults:
        raise InputError("pack", "has faults", "Good")
    list(read_samples(path))
"""

RECORDS = """
from preprocess.manifest import Manifest, PackSettings
from preprocess.pack import PackConfig, pack

source, root = Path(sys.argv[5]), Path(sys.argv[6])
settings = PackSettings(size=64, samples_per_shard=8)
config = PackConfig(source, root, settings, workers=1, update=True)

def read(data):
    target.write_bytes(data)
    if sys.argv[4] == "manifest":
        Manifest.load(root)
    else:
        pack(config)
"""


def outcomes(
    kind: str, code: str, folder: Path, *words: object, rounds: int = ROUNDS, megabytes: int = 2000
) -> int:
    """Try mutations in a process of its own; return how many were refused."""
    place = folder / f"{kind}.mutation"
    answer = limited(TRIES + code, place, rounds, SEED, kind, *words, megabytes=megabytes)
    done, refused = map(int, answer.split())
    assert done + refused == rounds
    return refused


def tried(kind: str, code: str, folder: Path, *words: object, **limits: int) -> None:
    rounds = limits.get("rounds", ROUNDS)
    refused = outcomes(kind, code, folder, *words, **limits)
    assert refused > rounds // 20, "the mutations do no harm"


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures(kind: str, tmp_path: Path) -> None:
    tried(kind, PICTURES + FORMATS[kind], tmp_path)


def test_zips(tmp_path: Path) -> None:
    tried("zip", ZIP, tmp_path)


def test_mapping_files(tmp_path: Path) -> None:
    tried("mapping", MAPPING, tmp_path)


@pytest.mark.parametrize("kind", ["tar", "idx"])
def test_shards(kind: str, pack_copy: Path, tmp_path: Path) -> None:
    code = f"target = path.with_suffix('.{kind}')\ntried(target.read_bytes(), read)"
    tried(kind, PACK + code, tmp_path, pack_copy)


def test_manifests(faces: Path, pack_copy: Path, tmp_path: Path) -> None:
    code = "target = root / 'manifest.json'\ntried(target.read_bytes(), read)"
    tried("manifest", RECORDS + code, tmp_path, faces, pack_copy)


def test_records(faces: Path, pack_copy: Path, tmp_path: Path) -> None:
    """A damaged record is no error: its shard is packed again, by `overwrite` if need be."""
    code = "target = root / 'val/eyes-000000.json'\ntried(target.read_bytes(), read)"
    outcomes("record", RECORDS + code, tmp_path, faces, pack_copy, rounds=ROUNDS // 10)
    settings = PackSettings(size=64, samples_per_shard=8)
    pack(PackConfig(faces, pack_copy, settings, workers=1, overwrite=True))
    assert not check(pack_copy).faults
