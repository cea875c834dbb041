"""Weights put into a network that differs from the one they come from."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision

from detector import recipes
from detector.config import Backbone, HeadConfig, LossConfig, PyramidConfig, RunConfig, TowerConfig, TrunkNorm
from detector.errors import CheckpointError
from detector.model.detector import DetectionModel
from tests.unit.model.weights import SMALL, State, fresh, saved, start, timm_resnet, under, without


@pytest.fixture(scope="module")
def resnet() -> State:
    return timm_resnet()


def test_timm_and_torchvision_name_alike(resnet: State) -> None:
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    assert {name: value.shape for name, value in theirs.items()} == {
        name: value.shape for name, value in resnet.items()
    }


@pytest.mark.parametrize(("backbone", "is_timm"), [("resnet18", True), ("resnet34", False), ("resnet50", True)])
def test_a_resnet_fills_the_trunk(tmp_path: Path, resnet: State, backbone: Backbone, is_timm: bool) -> None:
    state = resnet
    if not is_timm:
        state = torchvision.models.resnet34(num_classes=3).state_dict()
    elif backbone == "resnet50":
        state = timm_resnet((3, 4, 6, 3), is_bottleneck=True)
    config = replace(SMALL, model=replace(SMALL.model, backbone=backbone))
    model = fresh(config=config)
    torch.save(state, tmp_path / "w.pth")
    loaded = start(model, tmp_path / "w.pth", config)
    own = model.backbone.state_dict()
    assert set(loaded.taken) == {f"backbone.{name}" for name in own if "num_batches" not in name}
    for name in loaded.taken:
        trunk = name.removeprefix("backbone.")
        assert torch.equal(own[trunk], state[trunk])
    counts, left = loaded.lines()
    assert f"backbone {len(loaded.taken)} of {len(loaded.taken)}" in counts
    assert "neck 0 of 14" in counts
    assert left == "weights: left in the file: fc.weight, fc.bias"


def test_norms_that_are_held_still_take_the_same_statistics(tmp_path: Path, resnet: State) -> None:
    torch.save(resnet, tmp_path / "w.pth")
    images = torch.rand(1, 3, 64, 64)
    features: list[torch.Tensor] = []
    for norm in ("batch", "frozen"):
        config = replace(SMALL, model=replace(SMALL.model, norm=norm))
        model = fresh(config=config).eval()
        assert not any(name.startswith("backbone.") for name in start(model, tmp_path / "w.pth", config).random)
        with torch.no_grad():
            features.append(model.backbone(images)[-1])
    torch.testing.assert_close(features[0], features[1], rtol=1e-4, atol=1e-4 * features[0].abs().max().item())


@pytest.mark.parametrize(
    ("theirs", "ours", "cure"),
    [
        ("batch", "group", "its trunk has batch norms, this model's group norms; set model.norm=batch"),
        ("group", "frozen", "set model.norm=group"),
    ],
)
def test_a_trunk_with_other_norms_is_refused(tmp_path: Path, theirs: TrunkNorm, ours: TrunkNorm, cure: str) -> None:
    configs = [replace(SMALL, model=replace(SMALL.model, norm=norm)) for norm in (theirs, ours)]
    torch.save(fresh(config=configs[0]).state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=re.escape(cure)):
        start(fresh(config=configs[1]), tmp_path / "w.pth", configs[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda state: without("conv1", state) | {"conv1.0.weight": torch.zeros(32, 3, 3, 3)},
            r"no resnet18 .*several convolutions.*resnet50d",
        ),
        (
            lambda state: state | {"layer1.0.se.fc1.weight": torch.zeros(8)},
            r"it has layer1\.0\.se\.fc1\.weight; give other",
        ),
        (
            lambda state: state | {"layer2.0.downsample.2.weight": torch.zeros(8)},
            r"it has layer2\.0\.downsample\.2\.weight",
        ),
        (
            lambda state: state | {"conv1.weight": torch.zeros(64, 1, 7, 7)},
            r"conv1\.weight is \[64, 1, 7, 7\], wanted is \[64, 3, 7, 7\]",
        ),
        (lambda state: without("bn1.running_mean", state), r"it has no bn1\.running_mean"),
        (lambda _: timm_resnet((3, 4, 6, 3)), r"a resnet34, this model's a resnet18; set model\.backbone=resnet34"),
        (
            lambda state: under("student.", state) | under("teacher.", state),
            r"holds 2 ResNets, under 'student\.', 'teacher\.'",
        ),
    ],
)
def test_another_trunk_is_refused_by_what_it_has(
    tmp_path: Path, resnet: State, change: Callable[[State], State], said: str
) -> None:
    torch.save(change(resnet), tmp_path / "w.pth")
    model = fresh()
    before = model.backbone.conv1.weight.clone()
    with pytest.raises(CheckpointError, match=said):
        start(model, tmp_path / "w.pth")
    assert torch.equal(model.backbone.conv1.weight, before)


def of_class(model: DetectionModel, label: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    output = model.heads.head_named("classification").output
    assert output.bias is not None
    return output.weight.view(-1, num_classes, 96, 3, 3)[:, label], output.bias.view(-1, num_classes)[:, label]


def trained(num_classes: int, config: RunConfig = SMALL) -> DetectionModel:
    """As if: weights that differ everywhere."""
    model = fresh(num_classes, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize("classification", ["quality", "softmax"])
@pytest.mark.parametrize("scales", [(4.0,), (4.0, 6.0)])
def test_classes_are_found_by_name(tmp_path: Path, classification: str, scales: tuple[float, ...]) -> None:
    model_config = replace(SMALL.model, priors=replace(SMALL.model.priors, scales=scales))
    config = replace(SMALL, model=model_config, loss=LossConfig(classification=classification))
    source = trained(4, config)
    path = saved(tmp_path / "coco.safetensors", ("person", "Traffic light", "dog", "Dog"), config, source)
    background = classification == "softmax"
    model = fresh(3, config)
    random = [part.clone() for part in of_class(model, 1, 3 + background)]
    loaded = start(model, path, config, ("dog", "Zebra", "traffic_light"))

    assert loaded.random == ()
    assert torch.equal(model.heads.head_named("box").output.weight, source.heads.head_named("box").output.weight)
    pairs = [(0, 2), (2, 1), *([(3, 4)] if background else [])]
    for here, there in pairs:
        for mine, other in zip(
            of_class(model, here, 3 + background), of_class(source, there, 4 + background), strict=True
        ):
            assert torch.equal(mine, other)
    for mine, before in zip(of_class(model, 1, 3 + background), random, strict=True):
        assert torch.equal(mine, before)
    assert loaded.lines()[1:] == (
        "weights: class outputs by name, 2 of 3: dog, traffic_light (there Traffic light); "
        "at random, from the class prior: Zebra",
    )


def test_the_same_classes_in_another_order_are_found_too(tmp_path: Path) -> None:
    source = trained(2)
    model = fresh()
    loaded = start(model, saved(tmp_path / "m.safetensors", ("b", "a"), model=source))
    assert torch.equal(of_class(model, 0, 2)[0], of_class(source, 1, 2)[0])
    assert loaded.lines()[1:] == ("weights: class outputs by name, 2 of 2: a, b",)


def test_classes_of_which_none_is_there_start_from_the_prior(tmp_path: Path) -> None:
    model = fresh()
    loaded = start(model, saved(tmp_path / "m.safetensors", ("x", "y"), model=trained(2)))
    assert set(loaded.random) == {"heads.classification.output.weight", "heads.classification.output.bias"}
    assert of_class(model, 0, 2)[1].item() == pytest.approx(-4.595, abs=1e-3)
    assert loaded.lines()[1:] == ("weights: class outputs by name, 0 of 2; at random, from the class prior: a, b",)


def test_class_outputs_of_another_kind_are_not_taken(tmp_path: Path) -> None:
    config = replace(SMALL, loss=LossConfig(classification="softmax"))
    loaded = start(fresh(), saved(tmp_path / "m.safetensors", ("a", "b"), config))
    assert "heads.classification.output.bias" in loaded.random
    assert loaded.lines()[1] == "weights: all class outputs at random: softmax there, loss.classification=quality here"


def test_other_priors_units_levels_and_norms(tmp_path: Path) -> None:
    """Offsets are written in our units; levels and convolutions of towers are found by what they are."""
    other = replace(
        SMALL.model,
        delta_std=(1.0, 1.0, 1.0, 2.0),
        pyramid=PyramidConfig(first_level=2, last_level=6, width=96),
        heads=(
            SMALL.model.heads[0],
            HeadConfig(name="box", kind="box", tower=TowerConfig(depth=2, width=96, norm="none")),
        ),
    )
    theirs = replace(SMALL, model=other)
    source = trained(2, theirs)
    model = fresh()
    loaded = start(model, saved(tmp_path / "m.safetensors", ("a", "b"), theirs, source))
    box, their_box = model.heads.head_named("box"), source.heads.head_named("box")
    units = torch.tensor([10.0, 10.0, 5.0, 10.0])
    assert torch.allclose(box.output.weight, their_box.output.weight * units[:, None, None, None])
    assert box.output.bias is not None
    assert torch.allclose(box.output.bias, their_box.output.bias * units)
    assert torch.equal(model.neck.lateral[0].weight, source.neck.lateral[1].weight)
    assert torch.equal(box.tower[3].weight, their_box.tower[2].weight)
    assert set(loaded.random) == {f"heads.box.tower.{at}.{part}" for at in (1, 4) for part in ("weight", "bias")}
    at_random, left = loaded.lines()[1:]
    assert at_random.startswith("weights: at random: heads.box.tower.1.weight (not there), ")
    assert left == (
        "weights: left in the file: heads.box.tower.0.bias, heads.box.tower.2.bias, neck.lateral.0.bias, "
        "neck.lateral.0.weight, neck.output.0.bias, neck.output.0.weight"
    )

    smaller = replace(SMALL, model=replace(SMALL.model, priors=replace(SMALL.model.priors, scales=(3.0,))))
    four, three = trained(2), fresh(config=smaller)
    loaded = start(three, saved(tmp_path / "four.safetensors", ("a", "b"), SMALL, four), smaller)
    bias, old = three.heads.head_named("box").output.bias, four.heads.head_named("box").output.bias
    assert bias is not None
    assert torch.allclose(bias[:2], old[:2] * 4 / 3)
    assert torch.allclose(bias[2:], old[2:] + math.log(4 / 3) / 0.2)
    assert loaded.random == ()
    assert loaded.lines()[1:] == ("weights: outputs of heads.box are written anew, for priors of other sides",)

    nine = replace(SMALL, model=replace(SMALL.model, priors=recipes.retinanet().model.priors))
    loaded = start(fresh(config=nine), saved(tmp_path / "one.safetensors"), nine)
    assert loaded.lines()[1] == "weights: 1 priors a cell there, 9 here: no output layer taken"
    assert len(loaded.lines()) == 2
    assert {name.split(".")[2] for name in loaded.random} == {"output"}


def test_tensors_that_are_nothing_of_ours_do_no_harm(tmp_path: Path, resnet: State) -> None:
    odd = {
        "neck.output.weight": torch.zeros(2),
        "neck.lateral.x.weight": torch.zeros(2),
        "neck": torch.zeros(2),
        "heads.box": torch.zeros(2),
        "heads.box.tower.x.weight": torch.zeros(2),
        "heads.box.output.weight": torch.zeros(3),
        "heads.box.output.bias": torch.tensor(1.0),
        "heads.classification.output.bias": torch.zeros(0),
    }
    torch.save(under("backbone.", resnet) | odd, tmp_path / "odd.pth")
    loaded = start(fresh(), tmp_path / "odd.pth")
    assert {name.split(".")[0] for name in loaded.taken} == {"backbone"}
    assert "heads.box.output.bias ([] there, [4] here)" in loaded.lines()[1]
    detector = {
        name.replace("backbone.", "backbone.body."): value for name, value in under("backbone.", resnet).items()
    }
    torch.save(detector | {"head.classification_head.cls_logits.bias": torch.zeros(830)}, tmp_path / "odd.pth")
    loaded = start(fresh(), tmp_path / "odd.pth")
    assert {name.split(".")[0] for name in loaded.taken} == {"backbone"}


def test_shapes_that_differ_are_named(tmp_path: Path) -> None:
    wide = replace(SMALL, model=replace(SMALL.model, pyramid=PyramidConfig(last_level=6, width=128)))
    loaded = start(fresh(), saved(tmp_path / "m.safetensors", ("a", "b"), wide))
    assert "neck.lateral.0.weight ([128, 128, 1, 1] there, [96, 128, 1, 1] here)" in loaded.lines()[1]
    assert " more" in loaded.lines()[1]


def test_weights_of_coco_from_torchvision_are_found_by_name(tmp_path: Path) -> None:
    """Its files have no names; with 91 outputs they are COCO's."""
    from torchvision.models.detection import retinanet_resnet50_fpn_v2

    theirs = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    torch.nn.init.normal_(theirs.head.classification_head.cls_logits.bias)
    torch.save(theirs.state_dict(), tmp_path / "v2.pth")
    config = recipes.retinanet_v2()
    model = fresh(2, config)
    loaded = start(model, tmp_path / "v2.pth", config, ("person", "blood cell"))
    bias = model.heads.head_named("classification").output.bias
    assert bias is not None
    their_bias = theirs.head.classification_head.cls_logits.bias.view(9, 91)
    assert torch.equal(bias.view(9, 2)[:, 0], their_bias[:, 1])
    assert bias.view(9, 2)[:, 1].tolist() == pytest.approx([-4.595] * 9, abs=1e-3)
    assert "by name, 1 of 2: person; at random, from the class prior: blood cell" in loaded.lines()[1]
    # Their outputs for no class at all are no class of ours.
    loaded = start(fresh(3, config), tmp_path / "v2.pth", config, ("person", "background", "N/A"))
    assert "by name, 1 of 3: person; at random, from the class prior: background, N/A" in loaded.lines()[1]


def test_class_outputs_that_nobody_can_name_are_left(tmp_path: Path) -> None:
    """A fine-tuned torchvision detector for two classes has three outputs, the first of them for nothing."""
    from torchvision.models.detection import retinanet_resnet50_fpn_v2

    theirs = retinanet_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=3)
    torch.nn.init.normal_(theirs.head.classification_head.cls_logits.bias)
    torch.save(theirs.state_dict(), tmp_path / "fine-tuned.pth")
    model = fresh(3, recipes.retinanet_v2())
    loaded = start(model, tmp_path / "fine-tuned.pth", recipes.retinanet_v2(), ("cell", "disc", "star"))
    bias = model.heads.head_named("classification").output.bias
    assert bias is not None
    assert bias.tolist() == pytest.approx([-4.595] * 27, abs=1e-3)
    assert "heads.classification 12 of 14" in loaded.lines()[0]
    assert "all class outputs at random: the file does not say of which classes" in loaded.lines()[1]


def test_heads_of_fcos_are_left(tmp_path: Path) -> None:
    """Their towers are named as those of old RetinaNets are, and are something else."""
    from torchvision.models.detection import fcos_resnet50_fpn

    theirs = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    torch.save(theirs.state_dict(), tmp_path / "fcos.pth")
    for config in (recipes.standard(), recipes.retinanet()):
        model = fresh(2, config)
        over = start(model, tmp_path / "fcos.pth", config)
        assert {name.split(".")[0] for name in over.taken} == {"backbone", "neck"}
        assert torch.equal(model.neck.lateral[0].weight, theirs.backbone.fpn.inner_blocks[0][0].weight)
        assert any(line.startswith("weights: left in the file: head.") for line in over.lines())
        assert "priors a cell" not in "".join(over.lines())
