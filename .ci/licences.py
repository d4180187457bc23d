"""List name, version and licence of each installed distribution that this project needs.

Exit code 2, and one line each, if licences are not allowed. Own code, because pip-licenses compares
`MIT AND PSF-2.0` as one word, lists what else is installed, and ends at the first that fails.
"""

import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# SPDX names. MPL-2.0 asks only that changes to its own files stay open.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
    "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0",
    "Unlicense", "Zlib",
}  # fmt: skip

# What stands for them in older metadata.
OLDER = {
    "3-Clause BSD License", "Apache 2.0", "Apache License 2.0", "Apache Software License",
    "BSD License", "MIT License", "Mozilla Public License 2.0 (MPL 2.0)",
    "Python Software Foundation License",
}  # fmt: skip

# NVIDIA's proprietary licences, and why the package is needed all the same.
PROPRIETARY = {
    "nvidia-cufft-cu12": "extra gpu: DALI's pipeline on a GPU loads it",
    "nvidia-npp-cu12": "extra gpu: DALI's pipeline on a GPU loads it",
    "nvidia-nvjitlink-cu12": "extra gpu: cuFFT loads it",
    "nvidia-libnvcomp-cu12": "DALI inflates with it",
    "nvidia-nvjpeg-cu12": "DALI decodes JPEG on a GPU with it",
    "nvidia-nvjpeg2k-cu12": "DALI's nvImageCodec decodes JPEG 2000 with it",
    "nvidia-nvtiff-cu12": "DALI's nvImageCodec decodes TIFF with it",
}
# NVIDIA's too: torch for CUDA, PyPI's choice on Linux, brings them; its CPU build does not.
OF_TORCH = re.compile(
    r"cuda-(bindings|toolkit)|nvidia-(cublas|cuda-(cupti|nvrtc|runtime)|cudnn|cufft|cufile|curand"
    r"|cusolver|cusparse|cusparselt|nccl|nvjitlink|nvshmem|nvtx)(-cu\d+)?"
)

# What the licence of the package does not say about the libraries in its wheels.
NOTES = {
    "av": "wheels hold FFmpeg (LGPL-3.0-or-later), x264 and x265 (GPL-2.0-or-later)",
    "opencv-python-headless": "wheels hold FFmpeg (LGPL-2.1-or-later)",
}


def needed(project: Path) -> dict[str, Distribution]:
    """Return what is installed of the needs of all extras, and of their needs in turn, by name."""
    settings = tomllib.loads(project.read_text())
    extras = settings["project"]["optional-dependencies"].values()
    first = [settings["build-system"]["requires"], settings["project"]["dependencies"], *extras]
    todo = [(Requirement(line), "") for lines in first for line in lines]
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    while todo:
        need, extra = todo.pop()
        name = canonicalize_name(need.name)
        if need.marker and not need.marker.evaluate({"extra": extra}):
            continue
        new = {(name, wanted) for wanted in {"", *need.extras}} - seen
        seen |= new
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of an extra that is not installed here
            continue
        lines = found[name].requires or []
        todo += [(Requirement(line), wanted) for _, wanted in new for line in lines]
    return found


def licences(package: Distribution) -> list[str]:
    """Return the licences that a package states; all of them count, those around `OR` too."""
    facts = package.metadata
    classifiers = [line.rpartition(" :: ")[2] for line in facts.get_all("Classifier") or []
                   if line.startswith("License ::")]  # fmt: skip
    if "License-Expression" not in facts and classifiers:
        return classifiers
    stated = (facts["License-Expression"] or facts["License"] or "").strip()
    try:
        expression = canonicalize_license_expression(stated)
    except InvalidLicenseExpression:
        return stated.splitlines()[:1] or ["none stated"]
    return re.split(r" AND | OR ", re.sub(r"[()]", "", expression))


def main() -> int:
    """Print a line for each package, then on stderr a line for each that is not allowed."""
    refused = []
    packages = needed(Path(__file__).resolve().parents[1] / "pyproject.toml")
    for name, package in sorted(packages.items()):
        stated = licences(package)
        of_torch = "torch for CUDA brings it" if OF_TORCH.fullmatch(name) else None
        reason = PROPRIETARY.get(name, of_torch)
        note = reason or NOTES.get(name)
        print(f"{name} {package.version}: {', '.join(stated)}{f' ({note})' if note else ''}")
        for unknown in () if reason else set(stated) - ALLOWED - OLDER:
            refused.append(f"Error: {name} {package.version}: {unknown} is not an allowed licence. "
                           "Do without, or allow it with a reason in .ci/licences.py")  # fmt: skip
    print(f"{len(packages)} distributions, {len(refused)} licences refused")
    for line in refused:
        print(line, file=sys.stderr)
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
