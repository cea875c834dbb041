"""The recipes `retinanet` and `retinanet-v2` are torchvision's RetinaNets: same weights in, same numbers out."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import (
    RetinaNet,
    RetinaNet_ResNet50_FPN_Weights,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
)
from torchvision.models.detection.image_list import ImageList

from detector import recipes
from detector.config import RunConfig
from detector.model import decode, pretrained
from detector.model import detector as network
from detector.model.detector import DetectionModel
from detector.types import Preprocess

CANVAS = (128, 192)
CLASSES = len(RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
# Files of torchvision have no names; these are those of COCO's 91 outputs, some of which stand for nothing.
NAMES = tuple(
    "" if name in ("__background__", "N/A") else name
    for name in RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """torchvision's model with random weights, and ours after it has read them from a file."""

    theirs: RetinaNet
    ours: DetectionModel
    config: RunConfig


@pytest.fixture(scope="module", params=["retinanet", "retinanet-v2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    make = retinanet_resnet50_fpn if request.param == "retinanet" else retinanet_resnet50_fpn_v2
    theirs = with_random_weights(make(weights=None, weights_backbone=None, num_classes=CLASSES).eval())
    config = recipes.make(request.param)
    ours = network.build(config, num_classes=CLASSES, preprocess=Preprocess(canvas_hw=CANVAS)).eval()
    path: Path = tmp_path_factory.mktemp("weights") / "retinanet.pth"
    torch.save(theirs.state_dict(), path)
    loaded = pretrained.initialise(ours, str(path), config, NAMES)
    assert loaded is not None
    assert loaded.random == ()
    assert len(loaded.taken) == sum("num_batches_tracked" not in name for name in theirs.state_dict())
    assert len(loaded.lines()) == 1
    return Pair(theirs=theirs, ours=ours, config=config)


def with_random_weights(model: RetinaNet) -> RetinaNet:
    torch.manual_seed(3)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_var", "weight")):
            buffer.copy_(torch.rand_like(buffer) * 0.5 + 0.75)
        elif name.endswith(("running_mean", "bias")):
            buffer.copy_(torch.randn_like(buffer) * 0.1)
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
    # As initialised, all outputs are nearly equal; behind a norm the features are about one.
    std = 0.05 if model.head.classification_head.conv[0][0].bias is not None else 0.02
    for head in (model.head.classification_head.cls_logits, model.head.regression_head.bbox_reg):
        torch.nn.init.normal_(head.weight, std=std)
    return model


@torch.no_grad()
def test_same_outputs_and_same_detections(pair: Pair) -> None:
    theirs, ours, config = pair.theirs, pair.ours, pair.config
    images = torch.randint(0, 256, (2, 3, *CANVAS), dtype=torch.uint8)
    x = ours.normalise(images)
    features = list(theirs.backbone(x).values())
    expected = theirs.head(features)
    prediction = ours.heads(ours.trunk(x), ours.priors(CANVAS).boxes)
    torch.testing.assert_close(prediction.logits, expected["cls_logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prediction.deltas, expected["bbox_regression"], atol=1e-4, rtol=1e-4)
    assert prediction.logits.std() > 0.05

    anchors = theirs.anchor_generator(ImageList(x, [CANVAS, CANVAS]), features)
    priors = ours.priors(CANVAS)
    torch.testing.assert_close(priors.boxes, anchors[0], atol=1e-4, rtol=0)

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
        rows = torch.cat((mine.boxes / CANVAS[1], mine.labels[:, None], mine.scores[:, None]), dim=1)
        their_rows = torch.cat((other["boxes"] / CANVAS[1], other["labels"][:, None], other["scores"][:, None]), dim=1)
        distance = (rows[:, None] - their_rows[None]).abs().amax(-1)
        assert distance.amin(0).max() < 1e-4
        assert distance.amin(1).max() < 1e-4
