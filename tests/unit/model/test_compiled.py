"""Compiled networks compute the same and are used only where they are faster."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from detector import config_file, recipes
from detector.errors import ConfigError
from detector.model import compiled
from detector.train.learner import Learner
from tests.unit.train import make

# Torch's own, where it looks at the inputs of a part of a graph.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

NARROW = {"model.backbone": "resnet18", "model.pyramid.width": 16, "precision": "float32"}
FAST, SLOW = 1.0, 2.0


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture(autouse=True)
def without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is captured and differentiated as always; machine code would take half a minute a test."""
    monkeypatch.setattr(nn.Module, "compile", _captured(nn.Module.compile))


@pytest.fixture(autouse=True)
def without_checks_of_types() -> Iterator[None]:
    """What checks the shapes of arguments under test cannot be captured."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def _captured(compile_module: Callable[..., None]) -> Callable[..., None]:
    return lambda module, *, dynamic, options=None: compile_module(module, dynamic=dynamic, backend="aot_eager")


def timed(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> list[float]:
    """The trial's passes run once and seem to take these times."""
    left = list(seconds)

    def measure(step: Callable[[], None], device: torch.device) -> float:
        step()
        return left.pop(0)

    monkeypatch.setattr(compiled, "_seconds", measure)
    return left


def losses(learner: Learner) -> list[float]:
    return [value for _ in range(2) for value in learner.learn(make.batch(2), 0.5).losses.values.tolist()]


def test_training_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_file.override(recipes.small(), NARROW)
    model = make.model(config)
    twin = copy.deepcopy(model)
    expected = losses(Learner(twin, config, dtype=torch.float32))
    timed(monkeypatch, SLOW, FAST)
    learner = Learner(model, config, dtype=torch.float32)
    assert compiled.for_training(model, make.batch(2).images, dtype=torch.float32).pays
    assert model.backbone._compiled_call_impl is not None
    assert losses(learner) == pytest.approx(expected, rel=1e-4)
    assert list(model.state_dict()) == list(twin.state_dict())


def test_the_trial_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make.model(config_file.override(recipes.small(), NARROW | {"model.norm": "batch"}))
    before = copy.deepcopy(model.state_dict())
    timed(monkeypatch, FAST, SLOW)
    trial = compiled.for_training(model, make.batch(2).images, dtype=torch.float32)
    assert "not used" in trial.sentence()
    assert model.backbone._compiled_call_impl is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inference_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make.model(config_file.override(recipes.small(), NARROW)).eval()
    images = make.batch(2).images
    with torch.no_grad():
        expected = model(images)
    timed(monkeypatch, SLOW, FAST)
    assert compiled.for_inference(model, images, dtype=torch.float32).pays
    with torch.inference_mode():
        found = model(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.deltas, expected.deltas, rtol=1e-4, atol=1e-5)


def test_a_trial_is_remembered_for_the_same_network_and_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_file.override(recipes.small(), NARROW)
    run = partial(compiled.for_inference, dtype=torch.float32)
    images = make.batch(2).images
    left = timed(monkeypatch, FAST, SLOW, SLOW, FAST)
    first = run(make.model(config), images)
    again = make.model(config)
    assert run(again, images) == first
    assert again._compiled_call_impl is None
    assert len(left) == 2
    assert run(make.model(config), images[:1]).pays
    assert left == []


def test_a_damaged_record_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_file.override(recipes.small(), NARROW)
    images = make.batch(2).images
    timed(monkeypatch, FAST, SLOW, SLOW, FAST)
    compiled.for_inference(make.model(config), images, dtype=torch.float32)
    (record,) = (tmp_path / "detector" / "compile-trials").iterdir()
    record.write_text("{")
    assert compiled.for_inference(make.model(config), images, dtype=torch.float32).pays


def test_a_network_that_cannot_be_compiled_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no compiler\nsecond line")

    def compile_module(module: nn.Module, **_: object) -> None:
        module._compiled_call_impl = broken

    monkeypatch.setattr(nn.Module, "compile", compile_module)
    model = make.model(config_file.override(recipes.small(), NARROW))
    with pytest.raises(
        ConfigError, match="--compile: torch cannot compile the network here: RuntimeError: no compiler;"
    ):
        compiled.for_inference(model, make.batch(2).images, dtype=torch.float32)
    assert model._compiled_call_impl is None


def test_compiling_and_checkpointing_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"compile and memory\.checkpoint = all do not go together"):
        config_file.override(recipes.small(), {"compile": True, "memory.checkpoint": "all"})
