"""What may be given to --init, and what is refused."""

import math
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from detector import recipes
from detector.config import Backbone, HeadConfig, LossConfig, PyramidConfig, RunConfig, TowerConfig, TrunkNorm
from detector.errors import CheckpointError
from detector.model import detector as network
from detector.model import model_file, pretrained, state_names
from detector.model.detector import DetectionModel
from detector.model.model_file import TrainedModel
from detector.model.transfer import Loaded
from detector.types import LabelMap, Preprocess

SMALL = recipes.small()
PREPROCESS = Preprocess(canvas_hw=(64, 64))


def fresh(num_classes: int = 2, config: RunConfig = SMALL) -> DetectionModel:
    return network.build(config, num_classes=num_classes, preprocess=PREPROCESS)


def start(
    model: DetectionModel, path: Path, config: RunConfig = SMALL, classes: tuple[str, ...] = ("a", "b")
) -> Loaded:
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


def test_none_leaves_the_random_start() -> None:
    assert pretrained.initialise(fresh(), "none", SMALL, ("a", "b")) is None


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("open('pwned', 'w').close()",)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (
        ("torch.pth", torch.save),
        ("raw.pth", lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))),
    ):
        write(Evil(), tmp_path / name)
        with pytest.raises(CheckpointError, match="loaded safely"):
            start(fresh(), tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_what_is_fetched_is_checked_by_its_hash_and_holds_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def fetch(url: str, **options: object) -> dict[str, torch.Tensor]:
        assert "resnet18" in url
        asked.append(options)
        return torchvision.models.resnet18().state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    assert pretrained.initialise(fresh(), "imagenet", SMALL, ("a", "b")) is not None
    assert [(options["check_hash"], options["weights_only"]) for options in asked] == [(True, True)]


@pytest.mark.parametrize("name", ["m.safetensors", "m.pth"])
def test_a_damaged_model_of_ours_is_refused_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name)
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the checksum does not fit"):
        start(fresh(), path)


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    assert start(fresh(), saved(tmp_path / "weights.bin")).random == ()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_values_that_are_not_finite_are_refused_and_named(tmp_path: Path, suffix: str) -> None:
    state = {"conv1.weight": torch.ones(64, 3, 7, 7), "bn1.bias": torch.tensor([1.0, float("inf")])}
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(CheckpointError, match=r"w\.\w+: bn1\.bias holds values that are not finite"):
        start(fresh(), path)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("conv1.weight", torch.ones(64, 3, 7, 7, dtype=torch.int32), "holds int32; give the weights as floating point"),
        ("bn1.running_var", torch.full((64,), -1.0), "holds variances below 0"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(
    tmp_path: Path, resnet: dict[str, torch.Tensor], name: str, value: torch.Tensor, said: str
) -> None:
    torch.save(resnet | {name: value}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=f"{name} {said}"):
        start(fresh(), tmp_path / "w.pth")


@pytest.mark.parametrize(
    "content",
    [
        b"just some text, longer than a header",
        b"e\n",
        b"",
        b"\x80\x04.",
        b"PK\x03\x04" + bytes(99),
        b"\x89PNG\r\n\x1a\n",
        b"{}",
    ],
)
def test_any_file_gives_one_sentence_of_our_own(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError,
        match=r"model\.pth: is not a weights file that can be loaded safely: it was damaged.*; ",
    ) as caught:
        start(fresh(), path)
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "error", [RuntimeError('invalid hash value (expected "1", got "2")'), URLError("no route"), KeyError("x")]
)
def test_imagenet_that_cannot_be_had_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(CheckpointError, match=r"cannot be fetched .*--init"):
        pretrained.initialise(fresh(), "imagenet", SMALL, ("a", "b"))


def test_refuses_what_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        start(fresh(), tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match="no such weights file"):
        start(fresh(), Path("/dev/zero"))
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"holds no ResNet: .* its 1 tensors .* the first is conv1\.weight"):
        start(fresh(), tmp_path / "odd.pth")
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        start(fresh(), tmp_path / "list.pth")


def timm_resnet(blocks: tuple[int, ...] = (2, 2, 2, 2), *, is_bottleneck: bool = False) -> dict[str, torch.Tensor]:
    """Tensors by the names that timm 1.0 gives resnet18 (basic blocks) and resnet50 (bottlenecks)."""
    state: dict[str, torch.Tensor] = {}

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


@pytest.fixture(scope="module")
def resnet() -> dict[str, torch.Tensor]:
    return timm_resnet()


def test_timm_and_torchvision_name_alike(resnet: dict[str, torch.Tensor]) -> None:
    theirs = torchvision.models.resnet18(num_classes=10).state_dict()
    assert {name: value.shape for name, value in theirs.items()} == {
        name: value.shape for name, value in resnet.items()
    }


@pytest.mark.parametrize(("backbone", "is_timm"), [("resnet18", True), ("resnet34", False), ("resnet50", True)])
def test_a_resnet_fills_the_trunk(
    tmp_path: Path, resnet: dict[str, torch.Tensor], backbone: Backbone, is_timm: bool
) -> None:
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


def test_norms_that_are_held_still_take_the_same_statistics(tmp_path: Path, resnet: dict[str, torch.Tensor]) -> None:
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


State = dict[str, torch.Tensor]


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda wanted, _: under("module.", wanted), ""),
        (lambda wanted, _: under("backbone.", wanted), ""),
        (lambda wanted, _: under("model.", wanted) | {"head.weight": torch.zeros(3)}, ""),
        (lambda wanted, _: {"state_dict": under("module.backbone.", wanted), "epoch": 3}, "(state_dict)"),
        (
            lambda wanted, other: {
                "model": other,
                "model_ema": under("module.", wanted) | {"n_averaged": torch.ones(1)},
            },
            "(model_ema)",
        ),
        (lambda wanted, other: {"ema": {"module": wanted, "updates": 9}, "model": other}, "(ema.module)"),
        (lambda wanted, _: {"model": wanted, "ema": None, "optimizer": {"state": {}}}, "(model)"),
        (lambda wanted, other: {"state_dict": other, "state_dict_ema": wanted}, "(state_dict_ema)"),
    ],
)
def test_what_a_training_wraps_around_weights_is_taken_off(
    tmp_path: Path, resnet: State, wrap: Callable[[State, State], dict[str, object]], where: str
) -> None:
    other = {name: torch.zeros_like(value) for name, value in resnet.items()}
    torch.save(wrap(resnet, other), tmp_path / "w.pth")
    model = fresh()
    assert start(model, tmp_path / "w.pth").source == f"{tmp_path / 'w.pth'} {where}".strip()
    assert torch.equal(model.backbone.conv1.weight, resnet["conv1.weight"])


def without(prefix: str, state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(prefix)}


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


@pytest.mark.parametrize(
    ("block", "part", "norm", "expected"),
    [(0, "0", False, 0), (2, "0", False, 4), (2, "1", True, 7), (4, None, False, 4), (4, None, True, 6)],
)
def test_tower_positions(block: int, part: str | None, norm: bool, expected: int) -> None:
    assert state_names._tower_index(block, part, has_norm=norm) == expected
