"""The benchmark of heads on a network of a few seconds."""

import json

import pytest
import torch

from detector import cli
from detector.benchmark import heads, text
from detector.benchmark.heads import Report, Settings

TINY = Settings(recipes=("small",), batch_size=8, image_size=64, rounds=2, num_classes=5)


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def report(said: list[str]) -> Report:
    patch = pytest.MonkeyPatch()
    # Heads so narrow that their weights do not hide the maps; pieces of one image.
    patch.setattr(heads.recipes, "make", lambda _: narrow())
    patch.setattr("detector.train.objective.PIECE_CELLS", {"cpu": 64})
    found = heads.measure(TINY, torch.device("cpu"), said.append)
    patch.undo()
    return found


def narrow() -> heads.RunConfig:
    changes = {f"model.heads.{name}.tower.width": 32 for name in ("box", "classification")}
    return heads.config_file.override(
        heads.recipes.small(), {"model.pyramid.width": 8, "precision": "float32", **changes}
    )


def test_every_way_gives_the_gradients_of_joint(report: Report) -> None:
    (result,) = report.results
    assert tuple(result.ways) == heads.WAYS
    for way in result.ways.values():
        assert way.max_gradient_difference < 1e-5 * max(1.0, way.largest_gradient)
        assert way.largest_gradient > 0
    assert result.ways["joint"].max_gradient_difference == 0


def test_smaller_parts_hold_less(report: Report) -> None:
    ways = report.results[0].ways
    held = [ways[way].held_bytes for way in heads.WAYS]
    assert held == sorted(held, reverse=True)
    assert ways["joint"].held_reduction == 0
    assert ways["images"].held_reduction > 0.5


def test_the_whole_step_takes_at_least_what_is_held(report: Report) -> None:
    (result,) = report.results
    for way in result.ways.values():
        assert way.peak_bytes > result.trunk_bytes
        assert way.peak_bytes > way.held_bytes > 0
        assert way.cuda_peak_bytes is None


def test_time_is_against_joint_of_the_same_round(report: Report) -> None:
    for name, way in report.results[0].ways.items():
        assert 0 < way.seconds.min <= way.seconds.median <= way.seconds.max
        assert 0 < way.time_ratio.min <= way.time_ratio.median <= way.time_ratio.max
        assert name != "joint" or way.time_ratio.min == way.time_ratio.max == 1


def test_progress_names_recipe_way_and_round(report: Report, said: list[str]) -> None:
    assert report.results
    assert said[0] == "small, float32: memory of joint"
    assert sum("round 2 of 2, images" in line for line in said) == 1


def test_the_texts(report: Report) -> None:
    values = json.loads(json.dumps(text.as_json(report), allow_nan=False))
    assert values["settings"]["batch_size"] == 8
    assert values["results"][0]["ways"]["images"]["held_reduction"] > 0.5
    assert values["environment"]["torch_version"] == torch.__version__
    lines = text.table(report).splitlines()
    assert any(line.startswith("small, float32") for line in lines)
    assert sum("level" in line for line in lines) == 2


def test_a_batch_is_the_same_for_the_same_seed() -> None:
    a, b = (heads.synthetic_batch(TINY, seed=3) for _ in range(2))
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.targets.boxes, b.targets.boxes)
    assert a.targets.boxes.shape == (8, 7, 4)
    assert (a.targets.boxes >= 0).all()
    assert (a.targets.boxes <= 64).all()


def test_the_command_line(capsys: pytest.CaptureFixture[str], report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Settings] = []

    def measure(settings: Settings, device: torch.device, say: object) -> Report:
        asked.append(settings)
        return report

    monkeypatch.setattr(heads, "measure", measure)
    assert cli.benchmark(["heads", "--batch-size", "2", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]
    assert asked == [Settings(batch_size=2)]
    assert cli.main(["benchmark", "heads", "--rounds", "0"]) == 2
    assert "--rounds must be at least 1, got 0" in capsys.readouterr().err
