"""The `retinanet` recipe is torchvision's RetinaNet: same weights in, same numbers out."""

from pathlib import Path

import pytest
import torch
from torchvision.models.detection import retinanet_resnet50_fpn

from detector import recipes
from detector.model import decode, pretrained
from detector.model import detector as network
from detector.model.detector import DetectionModel
from detector.types import Preprocess

CANVAS = (128, 192)
CLASSES = 91


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    torch.manual_seed(3)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    for name, buffer in model.named_buffers():
        if name.endswith(("running_var", "weight")):
            buffer.copy_(torch.rand_like(buffer) * 0.5 + 0.75)
        elif name.endswith(("running_mean", "bias")):
            buffer.copy_(torch.randn_like(buffer) * 0.1)
    for head in (model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg):
        torch.nn.init.normal_(head.weight, std=0.05)  # as initialised, all outputs are nearly equal
    return model


@pytest.fixture(scope="module")
def ours(theirs: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> DetectionModel:
    config = recipes.retinanet()
    model = network.build(config, num_classes=CLASSES, preprocess=Preprocess(canvas_hw=CANVAS)).eval()
    path: Path = tmp_path_factory.mktemp("weights") / "retinanet.pth"
    torch.save(theirs.state_dict(), path)
    loaded = pretrained.initialise(model, str(path), config)
    assert loaded is not None
    assert loaded.random == ()
    assert len(loaded.taken) == sum("num_batches_tracked" not in name for name in theirs.state_dict())
    return model


@torch.no_grad()
def test_same_outputs_and_same_detections(theirs: torch.nn.Module, ours: DetectionModel) -> None:
    images = torch.randint(0, 256, (2, 3, *CANVAS), dtype=torch.uint8)
    x = ours.normalise(images)
    features = list(theirs.backbone(x).values())
    expected = theirs.head(features)
    prediction = ours.heads(ours.trunk(x), ours.priors(CANVAS).boxes)
    torch.testing.assert_close(prediction.logits, expected["cls_logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction.deltas, expected["bbox_regression"], atol=1e-4, rtol=1e-4)

    from torchvision.models.detection.image_list import ImageList

    anchors = theirs.anchor_generator(ImageList(x, [CANVAS, CANVAS]), features)
    priors = ours.priors(CANVAS)
    torch.testing.assert_close(priors.boxes, anchors[0], atol=1e-4, rtol=0)

    config = recipes.retinanet()
    packed = decode.pack(
        prediction,
        priors,
        torch.tensor([CANVAS] * 2).float(),
        classification="focal",
        delta_std=config.model.delta_std,
        config=config.decode,
    )
    found = decode.unpack(packed)
    sizes = [level.numel() // CLASSES for level in expected["cls_logits"][0].split(priors.level_sizes)]
    detections = theirs.postprocess_detections(
        {name: list(value.split(sizes, dim=1)) for name, value in expected.items()},
        [list(a.split(sizes)) for a in anchors],
        [CANVAS, CANVAS],
    )
    for mine, other in zip(found, detections, strict=True):
        assert len(mine.scores) == len(other["scores"]) > 20
        torch.testing.assert_close(mine.scores, other["scores"], atol=1e-4, rtol=1e-4)
        # Detections of all but equal score may stand in another order, so each is looked up.
        rows = torch.cat((mine.boxes, 1e3 * mine.labels[:, None], 1e3 * mine.scores[:, None]), dim=1)
        their_rows = torch.cat((other["boxes"], 1e3 * other["labels"][:, None], 1e3 * other["scores"][:, None]), dim=1)
        distance = (rows[:, None] - their_rows[None]).abs().amax(-1)
        assert distance.amin(0).max() < 0.1
        assert distance.amin(1).max() < 0.1


def test_a_resnet_fills_the_backbone(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    theirs = resnet18()
    path = tmp_path / "resnet18.pth"
    torch.save(theirs.state_dict(), path)
    config = recipes.small()
    model = network.build(config, num_classes=2, preprocess=Preprocess(canvas_hw=(64, 64)))
    loaded = pretrained.initialise(model, str(path), config)
    assert loaded is not None
    assert torch.equal(model.backbone.layer3[0].conv1.weight, theirs.layer3[0].conv1.weight)
    assert all(not name.startswith("backbone.") for name in loaded.random)
    assert "random" in loaded.sentence()
