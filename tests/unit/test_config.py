"""Settings: what is read back, what is refused, and that the message names the key."""

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from detector import config, config_file, recipes
from detector.config import RunConfig
from detector.errors import ConfigError


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config_file.loads(text, source="run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    return message


# Round trips


@pytest.mark.parametrize("name", recipes.NAMES)
def test_a_recipe_survives_dump_and_load(name: recipes.RecipeName) -> None:
    recipe = recipes.make(name)
    assert config_file.loads(config_file.dump(recipe), source="dump") == recipe


def test_the_default_survives_dump_and_load(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(config_file.dump(RunConfig()))
    assert config_file.load(file) == RunConfig()


positive = st.floats(1e-12, 1e12)


@given(lr=positive, decay=st.floats(0, 1e6), scales=st.lists(positive, min_size=1, max_size=4), seed=st.integers(0))
def test_values_survive_exactly(lr: float, decay: float, scales: list[float], seed: int) -> None:
    seed %= 2**63
    changed = config_file.override(
        RunConfig(), {"optim.lr": lr, "optim.weight_decay": decay, "model.priors.scales": scales, "seed": seed}
    )
    assert (changed.optim.lr, changed.optim.weight_decay, changed.seed) == (lr, decay, seed)
    assert changed.model.priors.scales == tuple(scales)
    assert config_file.loads(config_file.dump(changed), source="dump") == changed


def test_a_dump_is_plain_yaml_of_every_setting() -> None:
    tree = yaml.safe_load(config_file.dump(RunConfig()))
    assert list(tree) == [field.name for field in dataclasses.fields(RunConfig)]
    assert tree["augment"]["scale"] == [0.7, 1.5]


def test_a_file_may_name_some_settings_only() -> None:
    read = config_file.loads("optim: {lr: 0.5}", source="run.yaml")
    assert read == RunConfig(optim=config.OptimConfig(lr=0.5))


def test_recipe_names_are_their_type() -> None:
    assert get_args(recipes.RecipeName) == recipes.NAMES
    of_their_own = set(recipes.NAMES) - {"distill-one-stage"}  # that one is `small`; the teacher makes the difference
    assert len({config_file.dump(recipes.make(name)) for name in of_their_own}) == len(of_their_own)


# What a file can get wrong


@pytest.mark.parametrize(
    ("text", "key", "cure"),
    [
        ("seeed: 1", "'seeed'", "did you mean 'seed'?"),
        ("optim: {lrr: 1}", "'optim.lrr'", "did you mean 'lr'?"),
        ("model: {pyramid: {widht: 8}}", "'model.pyramid.widht'", "did you mean 'width'?"),
        ("data: {zzz: 1}", "'data.zzz'", "known: image_size, batch_size, workers"),
        ("1: 2", "'1'", "known: seed"),
        ("null: 2", "'None'", "known: seed"),
    ],
)
def test_an_unknown_setting_gets_the_nearest_one(text: str, key: str, cure: str) -> None:
    message = refused(text)
    assert f"unknown setting {key}" in message
    assert cure in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("optim: {lr: fast}", "optim.lr"),
        ("optim: {lr: [1]}", "optim.lr"),
        ("optim: {lr: {}}", "optim.lr"),
        ("optim: {lr: null}", "optim.lr"),
        ("seed: 1.5", "seed"),
        ("seed: 2024-01-01", "seed"),
        ("data: {batch_size: 2.5}", "data.batch_size"),
        ("data: {workers: many}", "data.workers"),
        ("augment: {scale: 1}", "augment.scale"),
        ("augment: {scale: [1, 2, 3]}", "augment.scale"),
        ("model: {backbone: resnet19}", "model.backbone"),
        ("model: {backbone: [resnet18]}", "model.backbone"),
        ("model: {delta_std: [1, 1, 1]}", "model.delta_std"),
        ("model: {priors: {scales: [big]}}", "model.priors.scales"),
        ("data: 5", "data must be a mapping"),
        ("data: null", "data must be a mapping"),
        ("data: []", "data must be a mapping"),
    ],
)
def test_a_value_of_the_wrong_kind_names_its_key(text: str, key: str) -> None:
    assert key in refused(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [("5", "the value 5 alone"), ("text", "the value 'text' alone"), ("[1, 2]", "a list"), ("- seed: 1", "a list")],
)
def test_a_file_must_be_a_mapping(text: str, found: str) -> None:
    assert f"must be a mapping of settings, found {found}; write one" in refused(text)


@pytest.mark.parametrize("text", ["", "null", "# nothing yet\n"])
def test_a_file_without_settings(text: str) -> None:
    assert "holds no settings; write one `key: value` a line" in refused(text)


@pytest.mark.parametrize(
    "text", ["seed: 3\nseed: 4", "model: {norm: frozen}\nseed: 1\nmodel: {norm: batch}", "optim: {lr: 1, lr: 2}"]
)
def test_a_setting_that_stands_twice(text: str) -> None:
    said = refused(text)
    assert "stands twice, first in line 1: keep one" in said
    assert "is not valid YAML: line" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed=@", r"--set seed: '@' is not valid YAML: line 1, column 1 \(@\): put text that begins with"),
        ("augment={scale: 1, scale: 2}", "--set augment: .*'scale' stands twice"),
    ],
)
def test_a_value_that_is_no_yaml(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config_file.parse_override(text)


@pytest.mark.parametrize(
    "text", ["{", "a: b: c", "\t- x", "seed: 1\n  x: 2", "&a [*b]", "seed: \x00", "--- 1\n--- 2", "[" * 5000]
)
def test_broken_yaml(text: str) -> None:
    assert "is not valid YAML" in refused(text)


@pytest.mark.parametrize("missing", ["nowhere.yaml", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read as a configuration"):
        config_file.load(tmp_path / missing)


def test_a_file_without_end_is_not_read() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: cannot be read as a configuration"):
        config_file.load(Path("/dev/zero"))


def test_a_long_file_is_not_even_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"#" * (config_file.MOST_LETTERS + (1 << 20)) + b"\xff")
    with pytest.raises(ConfigError, match="is longer than"):
        config_file.load(tmp_path / "a.yaml")


def test_a_file_of_megabytes_is_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("seed: 1 #" + "x" * config_file.MOST_LETTERS)
    with pytest.raises(ConfigError, match=r"long\.yaml: is longer than 262144 letters"):
        config_file.load(file)


@pytest.mark.parametrize(
    "value", ["9" * 5000, "2026-99-99", "0x" + "f" * 9000, "[" * 5000, "{a: " * 5000], ids=lambda value: value[:12]
)
def test_values_that_the_parser_stumbles_over(value: str) -> None:
    """Numbers of thousands of digits, dates that are none, thousands of brackets."""
    for text in (f"seed: {value}", f"optim: {{lr: {value}}}", f"? {value}\n: 1"):
        assert len(refused(text)) < 2000
    with pytest.raises(ConfigError):
        config_file.override(recipes.small(), dict([config_file.parse_override(f"optim.lr={value}")]))


def test_a_file_of_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("seed: 1  # größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        config_file.load(file)


# What YAML reads otherwise than it looks


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "true", "False"])
def test_a_yes_or_no_is_no_number(word: str) -> None:
    assert "optim.lr" in refused(f"optim: {{lr: {word}}}")
    assert "seed" in refused(f"seed: {word}")
    assert "model.backbone" in refused(f"model: {{backbone: {word}}}")


def test_a_truth_value_stays_one() -> None:
    assert config_file.loads("assign: {rescue: no}", source="run.yaml").assign.rescue is False


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001"])
def test_an_exponent_is_a_number(text: str) -> None:
    # YAML 1.1 reads 1e-3, without a point, as text.
    assert config_file.loads(f"optim: {{lr: {text}}}", source="run.yaml").optim.lr == 1e-3


@pytest.mark.parametrize(
    "key",
    [
        "optim.lr",
        "optim.weight_decay",
        "optim.clip_norm",
        "augment.hue",
        "augment.horizontal_flip",
        "loss.focal_gamma",
        "loss.giou_weight",
        "decode.min_score",
        "model.class_prior",
        "assign.negative_iou",
        "length.epochs",
    ],
)
def test_not_a_number_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        config_file.override(RunConfig(), dict([config_file.parse_override(f"{key}=.nan")]))


@pytest.mark.parametrize(
    "key",
    ["length.epochs", "data.image_size", "seed", "augment.hue", "optim.lr", "optim.weight_decay", "loss.giou_weight"],
)
@pytest.mark.parametrize("word", [".inf", "inf"])
def test_infinity_is_refused(key: str, word: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        config_file.override(RunConfig(), dict([config_file.parse_override(f"{key}={word}")]))


@pytest.mark.parametrize(
    "text", ["model.delta_std=[0.1, .nan, 0.1, 0.1]", "model.priors.scales=[1, .nan]", "augment.scale=[1, .inf]"]
)
def test_every_number_of_a_list_is_finite(text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(text.split("=")[0])):
        config_file.override(RunConfig(), dict([config_file.parse_override(text)]))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("augment.scale=[yes, 2]", "augment.scale"),
        ("model.priors.scales=[4, on]", "model.priors.scales"),
        ("optim.part_weight_decay={box: yes}", "optim.part_weight_decay"),
        ("stages=[{name: a, share: yes}]", "stages.0.share"),
        ("stages=[{name: a, share: 1, weights: {box.giou: no}}]", "stages.0.weights"),
        ("stages=[{name: a, share: 1, learn: [yes]}]", "stages.0.learn"),
        ("model.heads=[{name: no, kind: box}]", "model.heads.0.name"),
    ],
)
def test_a_yes_or_no_within_a_list_is_no_number(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"{re.escape(key)}: (True|False) is not a value of this setting"):
        config_file.override(RunConfig(), dict([config_file.parse_override(text)]))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("optim.part_weight_decay={box: .inf}", "optim.part_weight_decay must be finite"),
        ("stages=[{name: a, share: 1, weights: {box.giou: .nan}}]", "stages.0.weights must be finite"),
    ],
)
def test_every_number_of_a_mapping_is_finite(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        config_file.override(RunConfig(), dict([config_file.parse_override(text)]))


@pytest.mark.parametrize(
    "text",
    [
        "seed: !!python/object/apply:os.getcwd []",
        "!!python/object/apply:os.getcwd []",
        "seed: !!python/name:os.getcwd",
        "data: !!python/object:detector.config.DataConfig {}",
        "seed: !unknown 1",
    ],
)
def test_no_object_is_made_by_a_tag(text: str) -> None:
    assert "is not valid YAML" in refused(text)


def alias_bomb(levels: int) -> str:
    """Each line holds the one before nine times: 9**(levels - 1) leaves from a few hundred bytes.

    Seven levels unfold to some 30 MB of text, which fails a test here without taking the machine along.
    """
    lines = ["a0: &a0 [x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def test_an_alias_bomb_is_refused_without_being_unfolded() -> None:
    assert len(refused(alias_bomb(7))) < 500


@pytest.mark.parametrize("setting", ["seed: ", "data: ", "augment: {scale: "])
def test_an_alias_bomb_as_a_value_is_refused_without_being_unfolded(setting: str) -> None:
    levels = ", ".join(line.split(": ", 1)[1] for line in alias_bomb(7).splitlines())
    assert len(refused(f"{setting}[{levels}]" + "}" * ("{" in setting))) < 500


def test_a_bomb_of_merged_mappings_is_refused() -> None:
    lines = ["a0: &a0 {seed: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 7)]
    assert "merge keys" in refused("\n".join(lines))


@pytest.mark.parametrize("value", ["&a [*a]", "&a {x: *a}", "&a [{x: *a}]"])
def test_a_value_that_holds_itself_is_refused(value: str) -> None:
    assert "seed" in refused(f"seed: {value}")


# Each rule names its key

RULES = [
    ("seed", -1),
    ("seed", 2**63),
    ("data.image_size", 63),
    ("data.image_size", 4097),
    ("data.batch_size", 0),
    ("data.workers", -1),
    ("data.cache_gigabytes", 0.0),
    ("data.crops.share", 1.1),
    ("data.crops.size", 0),
    ("data.crops.batch_factor", 0),
    ("augment.horizontal_flip", 1.1),
    ("augment.vertical_flip", -0.1),
    ("augment.min_visibility", 2),
    ("augment.brightness", 1),
    ("augment.contrast", -0.1),
    ("augment.saturation", 1.5),
    ("augment.hue", 0.6),
    ("augment.quarter_turns", 1.1),
    ("augment.mosaic", -0.1),
    ("augment.mosaic_scale", [2, 1]),
    ("augment.mixup", 1.1),
    ("augment.clean_share", 1.1),
    ("augment.copy_paste.probability", 1.1),
    ("augment.copy_paste.objects", 0),
    ("augment.copy_paste.overlap", -0.1),
    ("augment.copy_paste.feather", 1.1),
    ("augment.scale", [0, 1]),
    ("augment.scale", [2, 1]),
    ("augment.aspect", [-1, 1]),
    ("model.pyramid.first_level", 1),
    ("model.pyramid.first_level", 6),
    ("model.pyramid.last_level", 4),
    ("model.pyramid.last_level", 9),
    ("model.pyramid.width", 7),
    ("model.priors.scales", []),
    ("model.priors.scales", [0]),
    ("model.priors.ratios", []),
    ("model.priors.ratios", [1, -1]),
    ("model.frozen_stages", -1),
    ("model.frozen_stages", 6),
    ("model.delta_std", [0.1, 0.1, 0, 0.1]),
    ("model.class_prior", 0),
    ("model.class_prior", 1),
    ("assign.candidates", 0),
    ("assign.negative_iou", -0.1),
    ("assign.negative_iou", 0.6),
    ("assign.positive_iou", 1.1),
    ("loss.focal_alpha", 1.1),
    ("loss.focal_gamma", -1),
    ("loss.smooth_l1_beta", -1),
    ("loss.classification_weight", -1),
    ("loss.smooth_l1_weight", -1),
    ("loss.giou_weight", -1),
    ("optim.lr", 0),
    ("optim.backbone_lr_factor", -1),
    ("optim.weight_decay", -1),
    ("optim.momentum", 1),
    ("optim.clip_norm", -1),
    ("optim.warmup_steps", -1),
    ("optim.final_lr_factor", 1.1),
    ("optim.ema_width", 0.3),
    ("length.epochs", 0),
    ("length.evaluations", 0),
    ("decode.min_score", 1),
    ("decode.nms_iou", 1.1),
    ("decode.candidates", 0),
    ("decode.max_detections", 0),
    ("model.heads.box.weight", -1),
    ("assign.aligned_candidates", 0),
    ("assign.aligned_powers", [-1, 6]),
    ("assign.aligned_from", 1.1),
    ("loss.quality_weight", -1),
    ("balance.lr", 0),
    ("balance.temperature", 0),
    ("balance.restoring", -1),
    ("balance.conflict_aversion", 1),
    ("distill.hidden_weight", -1),
    ("distill.attention_weight", -1),
    ("distill.class_logit_weight", -1),
    ("distill.box_logit_weight", -1),
    ("distill.attention_temperature", 0),
    ("memory.piece_cells", 0),
    ("optim.head_clip_norm", -1),
]

# What nobody means, and what would take all memory before anybody could say so.
LARGEST = {
    "data.image_size": 4096,
    "data.batch_size": 4096,
    "data.workers": 256,
    "data.crops.batch_factor": 64,
    "augment.copy_paste.objects": 64,
    "model.pyramid.width": 2048,
    "model.heads.box.tower.width": 2048,
    "decode.candidates": 100_000,
    "decode.max_detections": 100_000,
    "assign.candidates": 1000,
    "assign.aligned_candidates": 1000,
    "memory.micro_batches": 4096,
}


@pytest.mark.parametrize(("key", "largest"), LARGEST.items())
@pytest.mark.parametrize("value", [1, 10**8, 2**80])
def test_an_absurd_number_is_refused_with_the_largest_sensible_one(key: str, largest: int, value: int) -> None:
    config_file.override(recipes.small(), {key: largest})
    with pytest.raises(ConfigError, match=rf"\b{largest}\b.*got \d"):
        config_file.override(recipes.small(), {key: largest + value})


def test_absurd_lists_are_refused() -> None:
    heads = [{"name": f"h{i}", "kind": "quality"} for i in range(15)]
    own = [{"name": "classification", "kind": "classification"}, {"name": "box", "kind": "box"}]
    for key, value in (("model.priors.scales", [1.0] * 17), ("model.priors.ratios", [1.0] * 17)):
        with pytest.raises(ConfigError, match=f"{key} must be 1 to 16 positive numbers"):
            config_file.override(recipes.small(), {key: value})
    with pytest.raises(ConfigError, match=r"model\.heads must be at most 16, got 17"):
        config_file.override(recipes.small(), {"model.heads": own + heads})


@pytest.mark.parametrize(("key", "value"), RULES, ids=lambda value: str(value))
def test_a_rule_names_its_key(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)) as caught:
        config_file.override(RunConfig(), {key: value})
    assert str(value[0] if isinstance(value, list) and value else value).strip("[]") in str(caught.value)


@pytest.mark.parametrize("head", ["classification", "box"])
@pytest.mark.parametrize(("name", "value"), [("depth", -1), ("depth", 9), ("width", 7)])
def test_a_rule_of_a_head_names_its_key(head: str, name: str, value: int) -> None:
    # The rule does not know for which head it is asked.
    with pytest.raises(ConfigError, match=rf"model\.heads\.<name>\.tower\.{name} must be .* got {value}"):
        config_file.override(RunConfig(), {f"model.heads.{head}.tower.{name}": value})


@pytest.mark.parametrize(
    "length", [{}, {"epochs": 1, "steps": 1}, {"steps": 1, "minutes": 1}, {"epochs": 1, "steps": 1, "minutes": 1}]
)
def test_a_length_is_exactly_one_of_three(length: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="exactly one of epochs, steps and minutes"):
        config.LengthConfig(**length)


def leaves(value: Any, prefix: str = "") -> list[str]:
    if not dataclasses.is_dataclass(value):
        return [prefix]
    return [
        leaf
        for field in dataclasses.fields(value)
        for leaf in leaves(getattr(value, field.name), f"{prefix}.{field.name}".lstrip("."))
    ]


@pytest.mark.parametrize("key", leaves(RunConfig()))
def test_every_setting_refuses_an_object_of_no_sense(key: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(key)):
        config_file.override(RunConfig(), {key: {"a": object()}})


# Overrides


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("optim.lr=1e-3", ("optim.lr", "1e-3")),
        ("seed=5", ("seed", 5)),
        ("augment.scale=[0.5, 2]", ("augment.scale", [0.5, 2])),
        ("data.workers=null", ("data.workers", None)),
        ("data.workers=", ("data.workers", None)),
        (" seed =5", ("seed", 5)),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_parse_override(text: str, parsed: tuple[str, object]) -> None:
    assert config_file.parse_override(text) == parsed


@pytest.mark.parametrize("text", ["seed", "", "=5", "seed={", "seed=!!python/name:os.getcwd", "seed=&a [*b]"])
def test_an_override_that_cannot_be_parsed(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        config_file.parse_override(text)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("augment.scale", [1], "augment.scale must be a list of 2 values, got [1]"),
        ("augment.scale", 1.0, "augment.scale must be a list of 2 values, got 1.0"),
        ("model.delta_std", [1, 2, 3, 4, 5], "model.delta_std must be a list of 4 values, got [1, 2, 3, 4, ...]"),
        ("decode.zooms", 1, "decode.zooms must be a list, got 1"),
    ],
)
def test_a_list_of_another_length_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_file.override(RunConfig(), {key: value})


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("optim.lrr", "unknown setting 'optim.lrr': did you mean 'optim.lr'?"),
        ("lr", "unknown setting 'lr': did you mean 'balance.lr' or 'optim.lr'?"),
        ("zzzz", "unknown setting 'zzzz': known are seed, precision, compile, data, augment, model, "),
        ("optim.lr.x", "unknown setting 'optim.lr.x'"),
        ("optim.", "unknown setting 'optim.'"),
        ("optim", "optim is a group of settings; name one of them: optim.name, optim.lr,"),
        ("model.pyramid", "model.pyramid is a group of settings"),
    ],
)
def test_replace_names_a_wrong_key(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_file.override(RunConfig(), {key: 1})


def test_replace_leaves_the_original_alone() -> None:
    original = RunConfig()
    assert config_file.override(original, {"seed": 3}).seed == 3
    assert original == RunConfig()


def test_num_logits_counts_background_for_softmax_only() -> None:
    for kind in ("softmax", "sigmoid", "focal", "quality"):
        changed = config_file.override(RunConfig(), {"loss.classification": kind})
        assert config.num_logits(changed, 3) == (4 if kind == "softmax" else 3)


# Heads

CLASSES = {"name": "classes", "kind": "classification"}
BOX = {"name": "box", "kind": "box"}
FINER = {"name": "finer", "kind": "box", "input": "box"}
QUALITY = {"name": "quality", "kind": "quality", "input": "box", "tower": {"depth": 0}, "weight": 0.5}


def with_heads(*heads: dict[str, Any], **more: Any) -> RunConfig:
    return config_file.override(RunConfig(), {"model.heads": list(heads), **more})


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (
            [CLASSES, BOX | {"input": "boxx"}],
            "model.heads.box.input must be trunk or a head (classes, box), got 'boxx'",
        ),
        (
            [CLASSES | {"input": "finer"}, BOX | {"input": "classes"}, FINER],
            "model.heads: classes reads finer reads box reads classes: heads must not feed one another in a circle",
        ),
        ([CLASSES, BOX | {"input": "box"}], "box reads box: heads must not feed one another in a circle"),
        ([CLASSES | {"input": "box"}, BOX], "'classes' reads 'box' and must stand after it"),
        ([CLASSES, BOX, BOX], "model.heads must be of different names, got 'box' twice"),
        ([CLASSES], "model.heads must be with a box head"),
        ([BOX], "model.heads must be with one classification head"),
        ([CLASSES, BOX, CLASSES | {"name": "more"}], "model.heads must be with one classification head"),
        ([], "model.heads must be with one classification head"),
        ([CLASSES, BOX, {"name": "mine", "kind": "custom"}], "model.heads.mine: kind custom and a factory go together"),
        ([CLASSES, BOX | {"factory": "a:B"}], "model.heads.box: kind custom and a factory go together"),
        ([CLASSES, BOX | {"name": "trunk"}], "model.heads.<name>.name must be a word of a-z"),
        ([CLASSES, BOX | {"name": "features"}], "that is none of trunk, backbone, neck, heads, features"),
        ([CLASSES, BOX | {"name": "a.b"}], "model.heads.<name>.name must be a word of a-z, 0-9 and _"),
        ([CLASSES, BOX | {"kind": "boxes"}], "model.heads.1.kind"),
        ([CLASSES, BOX | {"towr": {}}], "unknown setting 'model.heads.1.towr': did you mean 'tower'?"),
        ([CLASSES, BOX | {"tower": 4}], "model.heads.1.tower must be a mapping"),
        ([CLASSES, "box"], "model.heads.1 must be a mapping of settings, got 'box'"),
    ],
)
def test_heads_that_do_not_fit_together(heads: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        with_heads(*heads)


def test_heads_must_be_a_list() -> None:
    assert "model.heads must be a list of groups of settings" in refused("model: {heads: {box: {kind: box}}}")


def test_a_cascade_of_heads_survives_dump_and_load() -> None:
    changed = with_heads(BOX, FINER, CLASSES | {"input": "finer"}, QUALITY)
    assert [head.name for head in changed.model.heads] == ["box", "finer", "classes", "quality"]
    assert changed.model.heads[3].tower == config.TowerConfig(depth=0)
    assert config_file.loads(config_file.dump(changed), source="dump") == changed


@pytest.mark.parametrize(("text", "value"), [("depth=1", 1), ("width=32", 32)])
def test_a_head_goes_by_its_name_in_an_override(text: str, value: int) -> None:
    key, parsed = config_file.parse_override(f"model.heads.box.tower.{text}")
    changed = config_file.override(RunConfig(), {key: parsed})
    classes, box = changed.model.heads
    assert getattr(box.tower, text.split("=")[0]) == value
    assert classes == RunConfig().model.heads[0]


def test_a_whole_list_by_an_override() -> None:
    text = "model.heads=[{name: box, kind: box}, {name: a, kind: classification, input: box, tower: {depth: 1}}]"
    changed = config_file.override(RunConfig(), dict([config_file.parse_override(text)]))
    assert [(head.name, head.input, head.tower.depth) for head in changed.model.heads] == [
        ("box", "trunk", 4),
        ("a", "box", 1),
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.heads.boxx.weight", "did you mean 'model.heads.box.weight'?"),
        ("model.heads.box.towr.depth", "did you mean 'model.heads.box.tower.depth'?"),
        ("model.heads.0.weight", "unknown setting 'model.heads.0.weight'"),
        ("model.heads.box", "model.heads.box is a group of settings; name one of them: model.heads.box.name"),
    ],
)
def test_a_head_that_is_not_there_by_an_override(key: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_file.override(RunConfig(), {key: 1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decode.mirror": True, "augment.horizontal_flip": 0}, "decode.mirror and augment.horizontal_flip = 0"),
        ({"model.neck": "pool"}, "assign.kind = atss does not go with model.neck = pool"),
        ({"assign.kind": "main"}, "assign.kind = main does not go with model.neck = pyramid"),
        (
            {"loss.classification": "categorical"},
            "loss.classification = categorical does not go with model.neck = pyramid",
        ),
        (
            {"model.neck": "pool", "assign.kind": "main"},
            "loss.classification = quality does not go with model.neck = pool",
        ),
        (
            {
                "model.neck": "pool",
                "assign.kind": "main",
                "loss.classification": "categorical",
                "data.crops.share": 0.5,
            },
            "data.crops.share must be 0 with model.neck = pool",
        ),
        *(
            (
                {
                    "model.neck": "pool",
                    "assign.kind": "main",
                    "loss.classification": "categorical",
                    key: 0.5,
                },
                f"{key}",
            )
            for key in ("augment.mosaic", "augment.mixup", "augment.copy_paste.probability")
        ),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_file.override(RunConfig(), changes)


# Stages


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            [{"name": "a", "share": 0.5}, {"name": "b", "share": 0.4}],
            "stages: the shares 0.5 + 0.4 sum to 0.9, must be 1; change one of them",
        ),
        (
            [{"name": "a", "share": 0.5}, {"name": "a", "share": 0.5}],
            "stages must be of different names, got 'a' twice",
        ),
        (
            [{"name": "a", "share": 1, "learn": ["neck", "bocks"]}],
            "stages.a.learn must be a list of some of backbone, neck, heads, classification, box, got 'bocks'",
        ),
        (
            [{"name": "a", "share": 1, "reset": ["backbone"]}],
            "stages.a.reset must be a list of some of classification, box, got 'backbone'",
        ),
        ([{"name": "a", "share": 0}], "stages.a.share must be above 0 and at most 1, got 0"),
        ([{"name": "a", "share": 1, "lr_factor": 0}], "stages.a.lr_factor must be > 0, got 0"),
        ([{"name": "a", "share": 1, "weights": {"box.giou": -1}}], "stages.a.weights.box.giou must be >= 0, got -1"),
        ([{"name": "", "share": 1}], "stages.<name>.name must be a word"),
        ([{"share": 1}], "stages.0.name"),
        ([{"name": "a", "share": 1, "learns": []}], "unknown setting 'stages.0.learns': did you mean 'learn'?"),
    ],
)
def test_stages_that_do_not_fit_together(stages: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_file.override(RunConfig(), {"stages": stages})


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_shares_that_are_written_with_few_digits_sum_to_one(parts: list[int]) -> None:
    stages = [{"name": f"s{i}", "share": round(part / sum(parts), 7)} for i, part in enumerate(parts)]
    changed = config_file.override(RunConfig(), {"stages": stages})
    assert len(changed.stages) == len(parts)


STAGES = [
    {"name": "warm", "share": 0.25, "learn": ["neck", "heads"], "weights": {"box.giou": 0, "box.smooth_l1": 2.5}},
    {"name": "all", "share": 0.75, "reset": ["box"], "lr_factor": 0.5},
]


def test_stages_survive_dump_and_load() -> None:
    changed = config_file.override(RunConfig(), {"stages": STAGES, "optim.part_weight_decay": {"box": 0, "neck": 0.5}})
    assert changed.stages[0].weights == {"box.giou": 0, "box.smooth_l1": 2.5}
    assert changed.stages[1].reset == ("box",)
    assert changed.optim.part_weight_decay == {"box": 0, "neck": 0.5}
    assert config_file.loads(config_file.dump(changed), source="dump") == changed


def test_a_stage_goes_by_its_name_in_an_override() -> None:
    staged = config_file.override(RunConfig(), {"stages": STAGES})
    changed = config_file.override(staged, {"stages.all.lr_factor": 0.1, "stages.warm.weights": {"box.giou": 1}})
    assert changed.stages[1].lr_factor == 0.1
    assert changed.stages[0].weights == {"box.giou": 1}
    assert changed.stages[0].learn == ("neck", "heads")


def test_the_decay_of_a_part_that_is_not_there() -> None:
    message = "optim.part_weight_decay must be for backbone, neck, heads, classification, box, got 'bocks'"
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_file.override(RunConfig(), {"optim.part_weight_decay": {"bocks": 0.1}})
    with pytest.raises(ConfigError, match=r"optim\.part_weight_decay\.neck must be >= 0, got -1"):
        config_file.override(RunConfig(), {"optim.part_weight_decay": {"neck": -1}})


# Whatever is in the file, the answer is settings or one line

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["seed", *leaves(RunConfig())]).map(lambda k: k.split(".")[-1]), inner)
    ),
    max_leaves=8,
)


@given(st.sampled_from(leaves(RunConfig())), trees)
def test_replace_gives_settings_or_a_config_error(key: str, value: object) -> None:
    try:
        changed = config_file.override(RunConfig(), {key: value})
    except ConfigError as error:
        assert key.split(".")[-1] in str(error)  # noqa: PT017 - either outcome is right, not one of them
    else:
        assert config_file.loads(config_file.dump(changed), source="dump") == changed


THREE = [
    {"name": "classification", "kind": "classification"},
    {"name": "box", "kind": "box"},
    {"name": "q", "kind": "quality"},
]


def test_a_list_of_heads_may_leave_out_what_has_a_default_and_be_changed_further() -> None:
    found = config_file.override(RunConfig(), {"model.heads": THREE, "model.heads.box.tower.depth": 1, "seed": 3})
    assert [head.name for head in found.model.heads] == ["classification", "box", "q"]
    assert [head.tower.depth for head in found.model.heads] == [4, 1, 4]
    assert found.seed == 3


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.heads", [{"kind": "box"}], "model.heads.0.name"),
        ("stages", [{"share": 1}], "stages.0.name"),
        ("model.heads", 3, "model.heads must be a list"),
        ("model.heads", None, "model.heads must be a list"),
        ("stages", 3, "stages must be a list"),
        ("model.heads", ["a"], "model.heads.0 must be a mapping"),
        ("model.heads", {"a": 1}, "model.heads must be a list"),
    ],
)
def test_a_list_of_groups_of_the_wrong_kind_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_file.override(RunConfig(), {key: value, "seed": 3})


def test_a_group_may_be_set_by_a_mapping() -> None:
    found = config_file.override(RunConfig(), {"model.heads.box.tower": {"depth": 1, "width": 16}})
    assert (found.model.heads[1].tower.depth, found.model.heads[1].tower.width) == (1, 16)
    with pytest.raises(ConfigError, match=r"did you mean 'model\.heads\.box\.tower\.depth'"):
        config_file.override(RunConfig(), {"model.heads.box.tower": {"dept": 1}})


def test_a_file_may_start_from_a_recipe() -> None:
    found = config_file.loads("recipe: small\noptim: {lr: 0.5}\nlength: {steps: 3}", source="f")
    small = recipes.small()
    assert found.optim.lr == 0.5
    assert found.optim.warmup_steps == small.optim.warmup_steps
    assert found.model == small.model
    assert (found.length.steps, found.length.minutes) == (3, None)


def test_an_unknown_recipe_in_a_file_is_named() -> None:
    with pytest.raises(ConfigError, match="f: recipe 'smal': did you mean 'small'"):
        config_file.loads("recipe: smal", source="f")
    with pytest.raises(ConfigError, match="f: recipe auto is fitted to data, and no part of a file"):
        config_file.loads("recipe: auto", source="f")


def test_settings_of_a_group_stand_beside_one_another() -> None:
    texts = ["model={norm: group}", "optim.lr=0.1", "model={pyramid: {first_level: 4}}", "optim={lr: 0.2, name: sgd}"]
    found = config_file.parse_overrides(texts)
    assert found == {"model.norm": "group", "model.pyramid.first_level": 4, "optim.lr": 0.2, "optim.name": "sgd"}
    weights = config_file.parse_overrides(["balance={weights: {box: 2}}", "no.such={a: 1}", "model={}"])
    assert weights == {"balance.weights": {"box": 2}, "no.such": {"a": 1}}
