import pytest
import torch

from train.config import ModelConfig
from train.model import InputSpec, UNet, flop_count, fold_batch_norm, parameter_count

SHAPES = [ModelConfig(width=8, depth=2), ModelConfig(width=4, depth=3)]


@pytest.mark.parametrize("config", SHAPES)
def test_logits_are_as_fine_as_the_input_and_every_parameter_matters(config: ModelConfig) -> None:
    model = UNet(config)
    logits = model(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 1, 64, 96)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_default_fits_the_budget() -> None:
    model = UNet()
    assert parameter_count(model) <= 2_000_000
    assert flop_count(model, 256) <= 2_000_000_000
    assert model.training, "counting must leave the mode as it was"
    convolution = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert flop_count(convolution, 16) == 2 * 16 * 16 * 8 * 3 * 9, "two per multiply-add"


@pytest.mark.parametrize("config", SHAPES)
def test_folding_batch_norm_changes_nothing_but_the_time(config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = UNet(config)
    for _ in range(3):  # give the running statistics something to fold
        model(255 * torch.rand(4, 3, 64, 64))
    model.eval()
    images = 255 * torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
        folded = fold_batch_norm(model)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
        torch.testing.assert_close(folded(images), before, rtol=1e-4, atol=1e-4)


def test_normalisation_is_the_first_layer() -> None:
    spec = InputSpec(64, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    model, plain = UNet(SHAPES[0], spec).eval(), UNet(SHAPES[0], InputSpec(64, (0,) * 3, (1,) * 3))
    plain.load_state_dict(model.state_dict())
    images = torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8)
    by_hand = (images - torch.tensor(spec.mean)[:, None, None]) / torch.tensor(spec.std)[
        :, None, None
    ]
    with torch.inference_mode():
        torch.testing.assert_close(model(images), plain.eval()(by_hand))
    assert not {"mean", "std"} & model.state_dict().keys(), "they travel in the InputSpec"


def test_untrained_model_starts_at_the_share_of_eye_pixels() -> None:
    torch.manual_seed(0)
    probability = UNet()(255 * torch.rand(2, 3, 64, 64)).detach().sigmoid()
    assert 0.003 < float(probability.mean()) < 0.03
