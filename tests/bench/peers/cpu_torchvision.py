"""Make torchvision importable beside a CPU build of torch: import this before what imports it.

PyPI's torchvision is linked against CUDA; beside a torch without it its operators do not load, and
`import torchvision` fails for want of two declarations. Its Python parts, all that MosaicML
Streaming and segmentation-models-pytorch ask for, work once those exist.
"""

import sys

from torch import library

try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    for _name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[_name]
    _library = library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
