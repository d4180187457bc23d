"""Networks that are damaged, crafted or not ours: an error that names the file, never an answer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from common import call, fails
from PIL import Image

from infer import Predictor
from infer.cli import main
from infer.network import BUNDLED, OnnxNetwork
from preprocess.errors import InputError

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
FACTS = {"input": {"size": 64}, "stride": 32, "threshold": 0.5}
Change = Callable[[Any], object]


def model(**facts: Any) -> Any:
    """Return a network of one product whose answer is the mean of the colours, 0 to 1."""
    make, kinds = onnx.helper, onnx.TensorProto
    images = make.make_tensor_value_info("images", kinds.UINT8, ["n", "h", "w", 3])
    output = make.make_tensor_value_info("probability", kinds.FLOAT, ["n", "h", "w"])
    weights = onnx.numpy_helper.from_array(np.full(3, 1 / 765, np.float32), "weights")
    nodes = [make.make_node("Cast", ["images"], ["float"], to=kinds.FLOAT),
             make.make_node("MatMul", ["float", "weights"], ["probability"])]  # fmt: skip
    graph = make.make_graph(nodes, "network", [images], [output], [weights])
    made = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    make.set_model_props(made, {"eye_segmentation": json.dumps(FACTS | facts)})
    return made


def save(made: Any, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def metadata(text: str) -> Change:
    return lambda made: onnx.helper.set_model_props(made, {"eye_segmentation": text})


def fact(**facts: Any) -> Change:
    return metadata(json.dumps(FACTS | facts))


def weights(values: Any) -> Change:
    def change(made: Any) -> None:
        made.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "weights"))

    return change


def elsewhere(made: Any) -> None:
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "secret.bin", "offset": "0", "length": "12"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def renamed(made: Any) -> None:
    made.graph.input[0].name = made.graph.node[0].input[0] = "input"


def fixed(made: Any) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 256


def floats(made: Any) -> None:
    made.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def wider(made: Any) -> None:
    made.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.full((3, 2), 1 / 765, np.float32), "weights")
    )
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    made.graph.output[0].type.tensor_type.ClearField("shape")


def newer(made: Any) -> None:
    made.opset_import[0].version = 99


def test_the_sound_one_is_run(tmp_path: Path) -> None:
    network = OnnxNetwork(save(model(), tmp_path / "own.onnx"))
    assert (network.size, network.stride, network.threshold) == (64, 32, 0.5)
    images = np.full((2, 32, 64, 3), 51, np.uint8)
    np.testing.assert_allclose(network(images), np.full((2, 32, 64), 0.2), rtol=1e-5)


@pytest.mark.parametrize("change", [
    renamed, floats, fixed, wider, newer, elsewhere,
    lambda made: made.ClearField("metadata_props"),
    metadata("{"), metadata("[]"), metadata("[" * 100_000), metadata('{"input": 3}'),
    fact(threshold=float("nan")), fact(threshold="abc"), fact(threshold=1.5), fact(threshold=None),
    fact(threshold=0.0), fact(input={"size": 0}), fact(input={"size": 10**9}), fact(input={}),
    fact(input={"size": True}), fact(input={"size": 48}), fact(stride=0), fact(stride=-32),
    fact(stride=32.0), fact(stride=[32]),
    weights(np.full(3, np.nan, np.float32)), weights(np.full(3, 1.0, np.float32)),
    weights(np.full(4, 0.001, np.float32)),
])  # fmt: skip
def test_a_network_that_is_not_as_exported_is_refused_before_any_photograph(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(np.full(3, 1 / 765, np.float32).tobytes())
    made = model()
    change(made)
    with pytest.raises(InputError, match=r"own\.onnx: .*(Export it|Install the package)") as found:
        OnnxNetwork(save(made, tmp_path / "own.onnx"))
    assert len(str(found.value)) < 400


def test_a_name_that_is_no_text_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(model(), tmp_path / "own.onnx")
    path.write_bytes(path.read_bytes().replace(b"images", b"im\xe1ges"))
    with pytest.raises(InputError, match=r"own\.onnx: "):
        OnnxNetwork(path)
    assert capfd.readouterr() == ("", "")


def test_nan_in_an_answer_is_an_error_and_not_no_eye(tmp_path: Path) -> None:
    """The mean is divided by itself: only black pixels give NaN, so that the file opens."""
    made = model()
    made.graph.node[1].output[0] = "mean"
    made.graph.node.append(onnx.helper.make_node("Div", ["mean", "mean"], ["probability"]))
    (tmp_path / "own.onnx").write_bytes(made.SerializeToString())
    Image.new("RGB", (80, 80), "black").save(tmp_path / "x.png")
    done = call(main, "--image", tmp_path / "x.png", "--model", tmp_path / "own.onnx",
                "--faces", "whole", "--output", tmp_path / "y.png")  # fmt: skip
    fails(done, "own.onnx: gives something else than probabilities, such as NaN")
    assert not (tmp_path / "y.png").exists()


def test_nan_out_of_torch_is_an_error_too() -> None:
    predictor = Predictor.from_checkpoint(BUNDLED.with_suffix(".safetensors"), "cpu")
    network: Any = predictor.network
    for parameter in network._model.parameters():
        parameter.data.fill_(float("nan"))
    with pytest.raises(InputError, match="such as NaN"):
        predictor.predict(np.zeros((96, 96, 3), np.uint8), "whole")


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    data, path = BUNDLED.read_bytes(), tmp_path / "cut.onnx"
    for length in (0, 1, 100, len(data) // 2, len(data) - 10_000, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.onnx: "):
            OnnxNetwork(path)
    with path.open("wb") as file:
        file.truncate(100 << 30)
    with pytest.raises(InputError, match=r"cut\.onnx: has 107374182400 bytes"):
        OnnxNetwork(path)
    with pytest.raises(InputError, match="is a folder, a pipe or a device"):
        OnnxNetwork(tmp_path)
