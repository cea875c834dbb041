"""A folded norm computes what the norm computes, and passes the same gradients."""

from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detector.benchmark.memory import Held, Live
from detector.config import Backbone as BackboneName
from detector.model.backbone import Backbone
from detector.model.fold import Folded

Norm = Literal["batch", "frozen"]
NETWORKS: tuple[BackboneName, ...] = ("resnet18", "resnet50")


def build(name: BackboneName, norm: Norm, *, frozen_stages: int = 0, recompute: bool = False) -> Backbone:
    """With norms that do something, and blocks that do not let the activations grow."""
    torch.manual_seed(0)
    made = Backbone(name, norm=norm, frozen_stages=frozen_stages, recompute=recompute)
    for module in made.modules():
        if isinstance(module, FrozenBatchNorm2d | nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(torch.rand_like(module.weight) * 0.5 + 0.3)
                module.bias.copy_(torch.randn_like(module.bias) * 0.1)
                module.running_mean.copy_(torch.randn_like(module.running_mean) * 0.1)
                module.running_var.copy_(torch.rand_like(module.running_var) + 0.5)
    return made.to(memory_format=torch.channels_last)


def unfolded(backbone: Backbone, x: Tensor) -> tuple[Tensor, ...]:
    """torchvision's own forward passes."""
    x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x))))
    features: list[Tensor] = []
    for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        x = layer(x)
        features.append(x)
    return tuple(features)


def gradients(backbone: Backbone, features: tuple[Tensor, ...]) -> dict[str, Tensor]:
    backbone.zero_grad()
    sum(x.float().square().mean() if x.dtype == torch.bfloat16 else x.square().mean() for x in features).backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 96, generator=generator, dtype=dtype)


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("norm", ["frozen", "batch"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_outputs_and_gradients_are_those_of_the_norms(
    name: BackboneName, norm: Norm, dtype: torch.dtype, tolerance: float
) -> None:
    backbone = build(name, norm).eval().to(dtype)
    expected = unfolded(backbone, images(dtype))
    expected_gradients = gradients(backbone, expected)
    found = backbone(images(dtype))
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, tolerance)
    found_gradients = gradients(backbone, found)
    assert found_gradients.keys() == expected_gradients.keys()
    assert "conv1.weight" in found_gradients
    assert ("bn1.weight" in found_gradients) == (norm == "batch")
    for parameter, gradient in found_gradients.items():
        # In float32 some inputs of a ReLU that are all but zero change sign, and with them a path of the gradient.
        assert_close(gradient, expected_gradients[parameter], tolerance if dtype == torch.float64 else 1e-2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_one_convolution_with_its_norm(kind: type[nn.Module], stride: int) -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(16, 24, 3, stride=stride, padding=1, bias=False), kind(24).eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).data.uniform_(0.5, 1.5)
    x = torch.randn(2, 16, 11, 13, requires_grad=True)
    wanted = [x, *conv.parameters(), *norm.parameters()]
    found, expected = Folded([norm]).conv(conv, norm, x), norm(conv(x))
    assert_close(found, expected, 1e-5)
    given = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad(y, wanted, given) for y in (found, expected)), strict=True)
    for a, b in pairs:
        assert_close(a, b, 1e-5)


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_bfloat16_is_as_near_to_float32_as_unfolded(norm: Norm) -> None:
    backbone = build("resnet50", norm).eval()
    exact = backbone(images())
    exact_gradients = {name: g.clone() for name, g in gradients(backbone, exact).items()}
    with torch.autocast("cpu", torch.bfloat16):
        found = backbone(images())
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert_close(a.float(), b, 0.03)
    for name, gradient in gradients(backbone, found).items():
        assert_close(gradient, exact_gradients[name], 0.1)


def test_a_live_norm_in_training_is_left_alone() -> None:
    folded, plain = build("resnet18", "batch").train(), build("resnet18", "batch").train()
    found, expected = folded(images()), unfolded(plain, images())
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    for (name, a), b in zip(folded.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_parts_held_still_are_folded_while_the_others_learn() -> None:
    folded, plain = (build("resnet18", "batch", frozen_stages=3).train() for _ in range(2))
    expected = unfolded(plain, images())
    found = folded(images())
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-5)
    assert gradients(folded, found).keys() == gradients(plain, expected).keys()


def held_bytes(backbone: Backbone, x: Tensor) -> int:
    live = Live()
    held = Held(live, [*backbone.parameters(), *backbone.buffers()])
    with live, held.watching():
        features = backbone(x)
        now = held.now
    del features
    return now


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_frozen_parts_hold_nothing(norm: Norm) -> None:
    assert held_bytes(build("resnet18", norm, frozen_stages=5).train(), images()) == 0
    held = [held_bytes(build("resnet18", norm, frozen_stages=n).train(), images()) for n in range(6)]
    assert held == sorted(held, reverse=True)
    stem, layer1 = 2 * 64 * 32 * 48 * 4, 4 * 2 * 64 * 16 * 24 * 4  # the maps after their ReLUs, in bytes
    assert held[0] - held[2] > stem + layer1


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_recomputed_layers_hold_less_and_give_the_same(norm: Norm) -> None:
    kept, recomputed = (build("resnet18", norm, recompute=again).train() for again in (False, True))
    assert held_bytes(recomputed, images()) < 0.5 * held_bytes(kept, images())
    for found, expected in zip(recomputed(images()), kept(images()), strict=True):
        assert torch.equal(found, expected)
    expected_gradients = gradients(kept, kept(images()))
    for name, gradient in gradients(recomputed, recomputed(images())).items():
        assert torch.equal(gradient, expected_gradients[name]), name
    # The second run through the norms does not count.
    for (name, a), b in zip(recomputed.state_dict().items(), kept.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_names_are_torchvisions() -> None:
    from torchvision.models import resnet50

    names = [name for name in resnet50().state_dict() if not name.startswith("fc.")]
    assert list(Backbone("resnet50", norm="batch", frozen_stages=0).state_dict()) == names
