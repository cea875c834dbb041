"""Using a model leaves it as it was."""

import dataclasses

import pytest
import torch
from torch import Tensor

from detector import config_file, recipes
from detector.model import detector as network
from detector.model import inference, model_file
from detector.model.model_file import TrainedModel
from detector.predict.predictor import Detector
from detector.types import LabelMap, Placement, Preprocess

CANVAS = (64, 96)
IMAGES = torch.zeros(1, 3, *CANVAS, dtype=torch.uint8)
PLACEMENTS = (Placement(scale=1.0, original_hw=CANVAS),)


@pytest.fixture
def trained() -> TrainedModel:
    narrow = {f"model.heads.{name}.tower.width": 16 for name in ("classification", "box")}
    config = config_file.override(recipes.small(), narrow | {"model.pyramid.width": 16})
    preprocess = Preprocess(canvas_hw=CANVAS)
    model = network.build(config, num_classes=1, preprocess=preprocess)
    label_map = LabelMap(names=("cell",), category_ids=(1,))
    return TrainedModel(model=model, config=config, label_map=label_map, preprocess=preprocess)


def test_the_type_is_the_callers(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    hook = trained.model.neck.lateral[0].register_forward_hook(lambda *at: seen.append(at[2].dtype))
    for dtype in (torch.float32, torch.bfloat16):
        inference.detect(trained, IMAGES, PLACEMENTS, dtype=dtype)
    hook.remove()
    views = len(trained.config.decode.zooms)
    assert seen == [torch.float32] * views + [torch.bfloat16] * views


@pytest.mark.parametrize("mirror", [True, False])
def test_with_a_mirror_left_and_right_are_treated_alike(trained: TrainedModel, mirror: bool) -> None:
    """A mirrored image gives the mirrored boxes: of a network of random weights only if both views are looked at."""
    config = config_file.override(trained.config, {"decode.mirror": mirror, "decode.voting": 0.025})
    both = dataclasses.replace(trained, config=config)
    with torch.no_grad():
        for parameter in both.model.heads.parameters():  # as they start all boxes are alike
            parameter.normal_(std=0.2)
    image = torch.randint(0, 255, (1, 3, *CANVAS), dtype=torch.uint8)
    found, turned = (inference.detect(both, one, PLACEMENTS, dtype=torch.float32)[0] for one in (image, image.flip(-1)))
    assert len(found) > 10
    width = CANVAS[1]
    back = torch.stack(
        (width - turned.boxes[:, 2], turned.boxes[:, 1], width - turned.boxes[:, 0], turned.boxes[:, 3]), dim=1
    )
    is_alike = len(found) == len(turned) and torch.allclose(
        _in_order(found.boxes, found.scores), _in_order(back, turned.scores), atol=0.05
    )
    assert is_alike is mirror


def _in_order(boxes: Tensor, scores: Tensor) -> Tensor:
    """Rows in an order that rounding does not change."""
    rows = torch.cat((boxes, scores[:, None]), dim=1)
    return rows[sorted(range(len(rows)), key=lambda row: [round(x, 1) for x in rows[row].tolist()])]


@pytest.mark.parametrize("mode", [True, False])
def test_a_failure_leaves_the_mode_as_it_was(trained: TrainedModel, mode: bool) -> None:
    trained.model.train(mode)

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    trained.model.neck.lateral[0].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        inference.detect(trained, IMAGES, PLACEMENTS, dtype=torch.float32)
    assert trained.model.training is mode


def test_what_the_model_keeps_can_be_trained_with(trained: TrainedModel) -> None:
    with torch.inference_mode():
        inference.detect(trained, IMAGES, PLACEMENTS, dtype=torch.float32)
    assert not trained.model.priors(CANVAS).boxes.is_inference()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_predict_works_where_gradients_are_off(
    trained: TrainedModel, mode: type[torch.no_grad], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    model_file.save(path, trained)
    with mode():
        found = Detector.load(path, device="cpu").predict(IMAGES[0].permute(1, 2, 0).numpy())
    assert len(found) == len(found.scores)
