"""Weights files of others and of ours, for the tests of `--init`."""

from pathlib import Path

import torch

from detector import recipes
from detector.config import RunConfig
from detector.model import detector as network
from detector.model import model_file, pretrained
from detector.model.detector import DetectionModel
from detector.model.model_file import TrainedModel
from detector.model.transfer import TakenOver
from detector.types import LabelMap, Preprocess

SMALL = recipes.small()
PREPROCESS = Preprocess(canvas_hw=(64, 64))
State = dict[str, torch.Tensor]


def fresh(num_classes: int = 2, config: RunConfig = SMALL) -> DetectionModel:
    return network.build(config, num_classes=num_classes, preprocess=PREPROCESS)


def start(
    model: DetectionModel, path: Path, config: RunConfig = SMALL, classes: tuple[str, ...] = ("a", "b")
) -> TakenOver:
    loaded = pretrained.initialise(model, str(path), config, classes)
    assert loaded is not None
    return loaded


def saved(
    path: Path,
    classes: tuple[str, ...] = ("a", "b"),
    config: RunConfig = SMALL,
    model: DetectionModel | None = None,
) -> Path:
    label_map = LabelMap(names=classes, category_ids=tuple(range(len(classes))))
    model = fresh(len(classes), config) if model is None else model
    model_file.save(path, TrainedModel(model=model, config=config, label_map=label_map, preprocess=PREPROCESS))
    return path


def timm_resnet(blocks: tuple[int, ...] = (2, 2, 2, 2), *, is_bottleneck: bool = False) -> State:
    """Tensors by the names that timm 1.0 gives resnet18 (basic blocks) and resnet50 (bottlenecks)."""
    state: State = {}

    def conv(name: str, out: int, inside: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, inside, kernel, kernel) * 0.05

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"] = torch.rand(width) + 0.5
        state[f"{name}.bias"] = torch.randn(width)
        state[f"{name}.running_mean"] = torch.randn(width)
        state[f"{name}.running_var"] = torch.rand(width) + 0.5
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    inside = 64
    for layer, count in enumerate(blocks, start=1):
        width = 64 * 2 ** (layer - 1)
        outside = width * (4 if is_bottleneck else 1)
        for block in range(count):
            name = f"layer{layer}.{block}"
            kernels = (1, 3, 1) if is_bottleneck else (3, 3)
            widths = (inside, width, width, outside) if is_bottleneck else (inside, width, outside)
            for part, kernel in enumerate(kernels, start=1):
                conv(f"{name}.conv{part}", widths[part], widths[part - 1], kernel)
                norm(f"{name}.bn{part}", widths[part])
            if inside != outside:
                conv(f"{name}.downsample.0", outside, inside, 1)
                norm(f"{name}.downsample.1", outside)
            inside = outside
    state["fc.weight"], state["fc.bias"] = torch.zeros(10, inside), torch.zeros(10)
    return state


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def without(prefix: str, state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(prefix)}
