"""What the page on several heads promises, through the command line."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from detector import Detector, recipes
from detector.cli import evaluate, predict, train
from tests.integration.conftest import TINY

PAGE = (Path(__file__).parents[2] / "docs" / "multi-head.md").read_text(encoding="utf-8")
SHORT = ["--steps", "6", "--set", "length.evaluations=1", "--set", "data.crops.share=0"]
TOWER = "tower: {depth: 1, width: 16}"


def run(data: Path, out: Path, *options: str) -> list[dict[str, Any]]:
    assert train([str(data), "--out", str(out), *SHORT, *TINY, *options]) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def heads(*entries: str) -> tuple[str, str]:
    return "--set", f"model.heads=[{', '.join(entries)}]"


CLASSES, BOX = f"{{name: classification, kind: classification, {TOWER}}}", f"{{name: box, kind: box, {TOWER}}}"


def example(language: str, marker: str) -> str:
    return next(block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if marker in block)


def test_the_head_of_your_own_of_the_page_works_as_shown(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "centreness.py").write_text(example("python", "CustomHead"))
    (tmp_path / "mine.yaml").write_text(example("yaml", "centreness:Centreness") + "length: {steps: 3}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    options = ["--config", "mine.yaml", "--out", "run", "--image-size", "64", "--batch-size", "2"]
    without = train([str(data), *options])
    assert without == 2
    assert "add --import centreness" in capsys.readouterr().err
    assert train([str(data), *options, "--import", "centreness"]) == 0
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert last["losses"]["centreness.loss"] > 0
    weights = load_file(tmp_path / "run" / "best.safetensors")
    assert "heads.centreness.output.weight" in weights
    assert evaluate(["run/best.safetensors", str(data), "--import", "centreness"]) == 0
    del sys.modules["centreness"]
    # A file that somebody else sent must not be able to import anything.
    assert evaluate(["run/best.safetensors", str(data)]) != 0
    assert "centreness" not in sys.modules


def test_a_third_head_by_configuration_alone(data: Path, tmp_path: Path) -> None:
    quality = f"{{name: quality, kind: quality, {TOWER}}}"
    rows = run(data, tmp_path / "run", *heads(CLASSES, BOX, quality))
    assert [branch["name"] for branch in rows[-1]["branches"]] == ["classification", "box", "quality"]
    assert len(rows[-1]["cosines"]) == 3
    assert sum(branch["share"] for branch in rows[-1]["branches"]) == pytest.approx(1)
    assert evaluate([str(tmp_path / "run" / "best.safetensors"), str(data)]) == 0
    assert (tmp_path / "run" / "balance.png").stat().st_size > 10_000


@pytest.mark.parametrize("topology", ["parallel", "cascade"])
def test_sequential_heads_train_to_the_same_weights(data: Path, tmp_path: Path, topology: str) -> None:
    cascade = ("--set", "model.heads.box.input=classification") if topology == "cascade" else ()
    # Adam would make a whole step of a gradient that is zero but for its rounding.
    plain = ("--recipe", "small", *cascade, "--set", "optim.name=sgd", "--lr", "0.01")
    run(data, tmp_path / "joint", *plain)
    run(data, tmp_path / "apart", *plain, "--heads", "sequential", "--set", "memory.piece_cells=20")
    joint, apart = (load_file(tmp_path / name / "last.safetensors") for name in ("joint", "apart"))
    for name, tensor in joint.items():
        torch.testing.assert_close(apart[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    run(data, out, "--recipe", "small", "--set", "model.backbone=resnet34", "--set", "model.pyramid.width=24")
    return out / "best.safetensors"


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("distill-one-stage", [""]),
        ("distill-two-stage", ["features", "logits"]),
        ("distill-three-stage", ["features", "all", "logits"]),
    ],
)
def test_distillation_in_stages(
    data: Path, tmp_path: Path, teacher: Path, recipe: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.train.meter.SECONDS_BETWEEN_RECORDS", 0.0)
    rows = run(data, tmp_path / "run", "--recipe", recipe, "--teacher", str(teacher), "--steps", "20")
    assert list(dict.fromkeys(row["stage"] for row in rows)) == expected
    against = {"features.hidden", "features.attention", "classification.logit", "box.logit"}
    assert against < set(rows[0]["losses"])
    if expected[0]:
        assert rows[0]["losses"]["box.logit"] == 0
        assert rows[0]["losses"]["features.hidden"] > 0
        assert rows[-1]["losses"]["features.hidden"] == 0
        assert rows[-1]["losses"]["box.logit"] > 0
    student = load_file(tmp_path / "run" / "best.safetensors")
    assert not [name for name in student if "adapter" in name or "teacher" in name]


def test_a_teacher_of_other_classes_is_refused(
    data: Path, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "other"
    (folder / "images").mkdir(parents=True)
    tree = json.loads((data / "train.json").read_text())
    tree["categories"][0]["name"] = "crate"
    (folder / "train.json").write_text(json.dumps(tree))
    for image in (data / "images").iterdir():
        shutil.copy(image, folder / "images")
    out = tmp_path / "run"
    assert train([str(folder), "--out", str(out), "--teacher", str(teacher), *SHORT, *TINY]) == 2
    error = capsys.readouterr().err
    assert "teacher 'box', data 'crate'" in error
    assert not out.exists()


def test_a_teacher_that_is_not_there_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert train([str(data), "--out", str(out), "--teacher", str(tmp_path / "gone.safetensors"), *SHORT, *TINY]) == 4
    assert "gone.safetensors: no such model file" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("recipe", recipes.NEED_TEACHER)
def test_a_distillation_recipe_without_teacher_names_the_option(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    assert train([str(data), "--recipe", recipe, "--out", str(tmp_path / "r"), *SHORT, *TINY]) == 2
    assert "--teacher" in capsys.readouterr().err


def test_models_are_fused_by_name(data: Path, tmp_path: Path, run_folder: Path) -> None:
    run(data, tmp_path / "other", "--image-size", "96", "--seed", "5")
    models = [str(run_folder / "best.safetensors"), str(tmp_path / "other" / "best.safetensors")]
    assert evaluate([*models, str(data), "--out", str(tmp_path / "eval")]) == 0
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert 0 <= scores["ap"] <= 1
    image = next((data / "images").iterdir())
    assert predict([*models, str(image), "--out", str(tmp_path / "pictures"), "--score", "0"]) == 0
    written = json.loads((tmp_path / "pictures" / "predictions.json").read_text())
    found = Detector.load(*models).predict(image, score=0)
    assert len(written) == len(found) > 0
    assert written[0]["score"] == pytest.approx(float(found.scores[0]), abs=1e-4)
    alone = Detector.load(models[0]).predict(image, score=0)
    assert not torch.equal(alone.scores[:1], found.scores[:1])


def test_the_stage_list_of_the_page_is_valid(data: Path, tmp_path: Path) -> None:
    (tmp_path / "stages.yaml").write_text(example("yaml", "lr_factor") + "length: {steps: 4}\n")
    options = ["--config", str(tmp_path / "stages.yaml"), "--out", str(tmp_path / "r"), "--image-size", "64"]
    assert train([str(data), *options, "--batch-size", "2"]) == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return rows.square().sum(-1)", "model.heads.mine (shaky:Shaky): its loss returned a tensor of shape"),
        ("return 1.0", "its loss returned float"),
        ("pass", "its loss returned NoneType"),
    ],
)
def test_a_wrong_loss_of_a_custom_head_is_named(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    message: str,
) -> None:
    module = f"""
from detector.model.heads import CustomHead

class Shaky(CustomHead):
    def loss(self, rows, targets, found):
        {body}
"""
    assert train_custom(data, tmp_path, monkeypatch, module) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("return rows.sigmoid()", 2, "its score_factor has shape"),
        ("return rows[..., 0] * float('nan')", 1, "output is not finite"),
    ],
)
def test_a_wrong_score_factor_of_a_custom_head_is_named(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: str,
    code: int,
    message: str,
) -> None:
    module = f"""
from detector.model.heads import CustomHead

class Shaky(CustomHead):
    def loss(self, rows, targets, found):
        return rows.square().sum()

    def score_factor(self, rows):
        {body}
"""
    assert train_custom(data, tmp_path, monkeypatch, module) == code
    assert message in capsys.readouterr().err


def train_custom(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> int:
    (tmp_path / "shaky.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("shaky", None)
    mine = "{name: mine, kind: custom, factory: 'shaky:Shaky', tower: {depth: 0}}"
    options = [*TINY, "--steps", "1", "--set", "data.crops.share=0", *heads(CLASSES, BOX, mine)]
    try:
        return train([str(data), "--out", "run", *options, "--import", "shaky"])
    finally:
        sys.modules.pop("shaky", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1/0", "ZeroDivisionError: division by zero"), ("def", "SyntaxError"), ("raise SystemExit(0)", "SystemExit: 0")],
)
def test_a_broken_module_is_a_configuration_error(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    reason: str,
) -> None:
    (tmp_path / "broken_heads.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert train([str(data), "--out", "run", "--import", "broken_heads"]) == 2
    assert f"--import broken_heads: {reason}" in capsys.readouterr().err
