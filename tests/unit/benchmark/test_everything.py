"""All benchmarks in one command: what is written where."""

import json
from pathlib import Path

import pytest
import torch

from detector.benchmark import everything, goals, growth, profile
from detector.benchmark.everything import Settings
from detector.benchmark.goals import NOT_MEASURED, Measured
from detector.errors import ConfigError

CPU = torch.device("cpu")
PAGE = """\
# Speed
<!-- measured: operations-cpu -->
old
<!-- end -->
prose
<!-- measured: train-cpu -->
kept
<!-- end -->
"""


def test_a_table_is_written_into_its_place(tmp_path: Path) -> None:
    page = tmp_path / everything.PAGE
    page.write_text(PAGE)
    said: list[str] = []
    settings = Settings(docs=tmp_path, data=tmp_path, only=("operations",))
    shown = everything.measure(settings, CPU, said.append)
    assert tuple(shown) == ("operations", "goals")
    assert "torchvision" in shown["goals"].text
    text = page.read_text()
    assert "old" not in text
    assert f"```text\n{shown['operations'].text}\n```\n<!-- end -->\nprose" in text
    assert "kept" in text
    values = json.loads((tmp_path / "measurements" / "operations-cpu.json").read_text())
    assert values["training"]["detector"]["waits"] == 0
    assert said[0] == "operations: torchvision"


def test_goals_know_what_was_measured_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = everything.counting.measure(everything.counting.Settings(), lambda _: None)

    def known(*_: object) -> object:
        return counted

    monkeypatch.setattr(everything.counting, "measure", known)  # once, not three times
    (tmp_path / everything.PAGE).write_text("<!-- measured: goals-cpu -->\n<!-- end -->\n")
    settings = Settings(docs=tmp_path, data=tmp_path, rounds=1, only=("operations",))
    first = everything.measure(settings, CPU, lambda _: None)["goals"].text
    networks = everything.networks.Settings(task="infer", batch_size=1, image_size=64, rounds=1)
    report = everything.networks.measure(networks, CPU, lambda _: None)
    (tmp_path / "measurements" / "infer-cpu.json").write_text(json.dumps(everything.contest.as_json(report)))
    second = everything.measure(settings, CPU, lambda _: None)["goals"].text
    assert (first.count(NOT_MEASURED), second.count(NOT_MEASURED)) == (16, 15)
    assert second in (tmp_path / everything.PAGE).read_text()
    (tmp_path / "measurements" / "infer-cpu.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"infer-cpu\.json: is no measurement of this program"):
        everything.measure(settings, CPU, lambda _: None)


def test_unknown_names_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--only speed: no such benchmark; known: operations, train"):
        everything.measure(Settings(data=tmp_path, only=("speed",)), CPU, print)
    with pytest.raises(ConfigError, match=r"it has no performance\.md"):
        everything.measure(Settings(docs=tmp_path, data=tmp_path), CPU, print)


def test_what_was_not_measured_says_so() -> None:
    rows = goals.goals(Measured(), on_gpu=False)
    assert len(rows) == 19
    assert {row.measured for row in rows} == {NOT_MEASURED}
    assert goals.table(rows).count(NOT_MEASURED) == 19


def test_growth_has_a_point_for_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "_VALUES", {axis: (2, 3) if axis != "image_size" else (64, 96) for axis in growth.AXES})
    report = growth.measure(growth.Settings(batch_size=2, image_size=64, rounds=1), CPU, lambda _: None)
    assert [(point.axis, point.value) for point in report.points][:3] == [
        ("batch_size", 2),
        ("batch_size", 3),
        ("image_size", 64),
    ]
    assert all(point.seconds > 0 for point in report.points)
    assert "objects in an image" in growth.table(report)
    growth.draw(report, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_shares_of_a_profile_sum_to_one() -> None:
    report = profile.measure(profile.Settings(batch_size=1, image_size=64, rounds=1), CPU, lambda _: None)
    assert len(report.shares) == 2
    for shares in report.shares.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["convolutions"] > 0.1
    assert "convolutions" in profile.table(report)
