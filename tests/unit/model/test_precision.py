"""bfloat16 may round; it must not invent."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from detector import config_file, recipes
from detector.model import detector as network
from detector.model import precision
from detector.model.detector import DetectionModel
from detector.types import Preprocess

REPEATS = 6  # what is uninitialised may by chance be zero


def build(canvas_hw: tuple[int, int], extra_from: str = "backbone") -> DetectionModel:
    narrow = {f"model.heads.{name}.tower.width": 16 for name in ("classification", "box")}
    changes = {"model.pyramid.width": 16, "model.pyramid.last_level": 7, "model.pyramid.extra_from": extra_from}
    config = config_file.override(recipes.small(), narrow | changes | {"model.norm": "frozen"})
    torch.manual_seed(0)
    return network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=canvas_hw))


def gradients(model: DetectionModel, images: Tensor, *, rounds: bool) -> dict[str, Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
        levels = model.trunk(model.normalise(images))
    sum(level.float().square().mean() for level in levels).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("extra_from", ["backbone", "pyramid"])
@pytest.mark.parametrize(
    "canvas_hw", [(64, 64), (320, 64), (64, 320), (32, 32), (64, 32), (64, 16), (320, 16), (16, 64)]
)
def test_gradients_on_the_cpu_are_those_of_float32(canvas_hw: tuple[int, int], extra_from: str) -> None:
    model = build(canvas_hw, extra_from)
    images = torch.randint(0, 256, (2, 3, *canvas_hw), dtype=torch.uint8)
    exact = gradients(model, images, rounds=False)
    for _ in range(REPEATS):
        for name, found in gradients(model, images, rounds=True).items():
            assert found.isfinite().all(), name
            error = (found - exact[name]).norm() / exact[name].norm().clamp(min=1e-6)
            assert error < 0.25, (name, float(error))


def test_the_type_of_the_result_is_that_of_the_input() -> None:
    layer = nn.Conv2d(4, 4, 3, stride=2, padding=1)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1, 4, 5, 1, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            y = precision.in_float32(layer, x)
        assert y.dtype == dtype
        assert torch.equal(y, layer(x.float()).to(dtype))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_machine_is_probed_where_gradients_are_off(mode: type[torch.no_grad]) -> None:
    precision.cpu_prefers_bfloat16.cache_clear()
    with mode():
        assert precision.resolve("auto", torch.device("cpu")) in {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("is_faster", [False, True])
def test_what_was_measured_is_remembered(is_faster: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    precision.cpu_prefers_bfloat16.cache_clear()
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda: is_faster)
    precision.remember()
    precision.cpu_prefers_bfloat16.cache_clear()
    monkeypatch.setattr(precision, "_bfloat16_is_faster", lambda: not is_faster)
    assert precision.cpu_prefers_bfloat16() is is_faster
    (record,) = (tmp_path / "detector" / "precision-trials").iterdir()
    record.write_text("[")
    precision.cpu_prefers_bfloat16.cache_clear()
    assert precision.cpu_prefers_bfloat16() is not is_faster
    precision.cpu_prefers_bfloat16.cache_clear()
