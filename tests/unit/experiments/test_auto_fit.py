"""Auto beside settings by hand: what is trained, and what is told."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.experiments import script

auto_fit, kept = script.load("auto_fit"), script.load("kept")
place = script.load("place")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- t: begin -->\n<!-- t: end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(auto_fit, "DATA", tmp_path / "generated")
    monkeypatch.setattr(auto_fit, "COUNTS", {"train": 3, "val": 1, "test": 1})
    monkeypatch.setattr(auto_fit, "KEPT", kept.Results(tmp_path / "results.jsonl", auto_fit.Result))
    monkeypatch.setattr(auto_fit, "PLACE", place.Place(page=file, mark="t"))
    return file


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["auto_fit.py", *words])
    auto_fit.main()


LOW, MIDDLE, HIGH = sorted(auto_fit.RATES)
AP_OF = {  # on the validation and the test split
    "auto": (0.1, 0.2),
    f"320 px, levels 3-6, lr {MIDDLE:g}": (0.2, 0.9),
    f"320 px, levels 3-6, lr {HIGH:g}": (0.3, 0.3),
    f"512 px, levels 3-6, lr {HIGH:g}": (0.4, 0.4),
    f"512 px, levels 3-6, lr {HIGH:g}, class weight 3": (0.3, 0.1),
}


def test_the_best_by_hand_is_chosen_on_the_validation_split(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    long: list[tuple[str, int]] = []

    def train(training: Any, settings: str) -> Any:
        if training.minutes == 7:
            trained.append(training.row.name)
        else:
            assert training.minutes == 10  # what auto takes for three pictures
            long.append((training.row.name, training.seed))
        val_ap, test_ap = AP_OF.get(training.row.name, (0.0, 0.0))
        return auto_fit.Result(
            data=training.kind.name, row=training.row.name, seed=training.seed, minutes=training.minutes,
            steps=9, val_ap=val_ap, test_ap=test_ap, test_ap50=0.5, commit="c", machine="m",
            threads=1, recipes="r", settings=settings,
        )  # fmt: skip

    monkeypatch.setattr(auto_fit, "trained", train)
    words = ("--only", "signs", "--minutes", "7", "--seeds", "2")
    main(monkeypatch, *words)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "12 trainings, commit" in text
    assert "| `signs`, 7 minutes each |" in text
    assert f"| 512 px, levels 3-6, lr {HIGH:g} | 1 | 9 | 0.400 | 0.400 | 0.500 |" in text
    assert "`signs`, 7 minutes each: on the test split auto has 0.500 of the AP of the best by hand." in text
    assert "| `signs`, 10 minutes each |" in text
    assert "| auto | 2 | 9 | 0.100 | 0.200 | 0.500 |" in text
    assert trained[0] == "auto"
    assert set(trained[1:4]) == {f"320 px, levels 3-6, lr {lr:g}" for lr in (LOW, MIDDLE, HIGH)}
    assert set(trained[4:7]) == {
        f"{pair}, lr {HIGH:g}" for pair in ("320 px, levels 2-5", "512 px, levels 3-6", "512 px, levels 2-5")
    }
    assert trained[7:] == [f"512 px, levels 3-6, lr {HIGH:g}, class weight 3"]
    assert long == [(name, seed) for seed in (0, 1) for name in ("auto", f"512 px, levels 3-6, lr {HIGH:g}")]
    main(monkeypatch, *words)  # all is known
    main(monkeypatch, "--table", *words)
    assert (len(trained), len(long)) == (8, 4)
    assert page.read_text(encoding="utf-8") == text
