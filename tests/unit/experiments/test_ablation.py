"""A study trains what is missing, and its table shows what belongs together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detector import recipes
from tests.unit.experiments import script

ablation, place = script.load("ablation"), script.load("place")
PAGE = "before\n<!-- t: begin -->\n<!-- t: end -->\nafter\n"


class Trainings:
    """Stands for `detector`: notes the commands, writes what a run leaves, and finds an AP for each."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []

    def __call__(self, *words: str) -> dict[str, Any]:
        self.commands.append(words)
        if words[0] == "train":
            out = Path(words[words.index("--out") + 1])
            out.mkdir()
            (out / "metrics.jsonl").write_text('{"seconds": 3.0}\n')
            (out / "last.safetensors").write_text("model")
        elif not Path(words[1]).is_file():
            raise FileNotFoundError(words[1])
        ap = 0.1 + 0.2 * ("optim.lr=1" in words) + 0.01 * ("1" in words)
        if words[0] == "eval":  # not what that training has said, as on another machine
            ap = 0.123 - 0.02 * ("decode.voting=0" in words)
        return {"scores": {"ap": ap, "ap50": 0.5}}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    made = Trainings()
    monkeypatch.setattr(ablation, "detector", made)
    return made


@pytest.fixture
def study(tmp_path: Path) -> Any:
    (tmp_path / "page.md").write_text(PAGE)
    return ablation.Study(
        rows=(
            ablation.Row(group="Recipe", name="small"),
            ablation.Row(group="Rate", name="one", settings=("optim.lr=1",)),
            ablation.Row(group="Looking", name="no votes", decode=("decode.voting=0",)),
        ),
        results=tmp_path / "results.jsonl",
        place=place.Place(page=tmp_path / "page.md", mark="t"),
        models=tmp_path / "models",
    )


def run(study: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    monkeypatch.setattr("sys.argv", ["study.py", *words])
    study.main(None, steps=7)
    return study.place.page.read_text()


def test_what_is_there_is_not_trained_again(study: Any, trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    page = run(study, monkeypatch, "--seeds", "2")
    assert [words[0] for words in trainings.commands] == ["train", "train", "eval", "eval"] * 2
    assert "4 trainings of 7 steps each, 2 times a model of the first row scored again. Commit" in page
    assert "| Recipe | small | 2 | 0.105 | 0.007 |  | 0.500 |" in page
    assert "| Rate | one | 2 | 0.305 | 0.007 | +0.200 | 0.500 |" in page
    assert "| Looking | no votes | 2 | 0.103 | 0.000 | -0.020 | 0.500 |" in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert run(study, monkeypatch, "--seeds", "2") == page
    assert len(trainings.commands) == 8


def test_another_recipe_begins_anew(study: Any, trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    run(study, monkeypatch, "--seeds", "1")
    changed = replace(recipes.small(), seed=5)
    monkeypatch.setattr(recipes, "small", lambda: changed)
    page = run(study, monkeypatch, "--seeds", "1")
    assert len(trainings.commands) == 8
    assert "2 trainings of 7 steps each, 1 times a model" in page


def test_a_row_that_is_changed_is_trained_anew(
    study: Any, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(study, monkeypatch, "--seeds", "1")
    small, one, *rest = study.rows
    changed = replace(study, rows=(small, replace(one, settings=("optim.lr=2",)), *rest))
    page = run(changed, monkeypatch, "--seeds", "1")
    assert [words[0] for words in trainings.commands] == ["train", "train", "eval", "eval", "train"]
    assert "2 trainings of 7 steps each, 1 times a model" in page
    assert "| Rate | one | 1 | 0.100 |" in page


def test_a_fuller_table_is_not_replaced(
    study: Any, trainings: Trainings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = run(study, monkeypatch, "--seeds", "2")
    assert run(study, monkeypatch, "--seeds", "1", "--steps", "99", "--only", "small") == page
    assert "shows more results than the 1 there are now" in capsys.readouterr().err
    assert run(study, monkeypatch, "--seeds", "1", "--steps", "99") == page
    assert run(study, monkeypatch, "--seeds", "2", "--steps", "99", "--only", "small") == page
    assert "shows more results than the 4 there are now" in capsys.readouterr().err
    assert "of 99 steps" in run(study, monkeypatch, "--seeds", "2", "--steps", "99")


def test_a_table_in_other_words_is_not_replaced(
    study: Any, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run(study, monkeypatch, "--seeds", "2").replace("4 trainings of", "4 runs of")
    study.place.page.write_text(page)
    with pytest.raises(ValueError, match="begins '4 runs of 7 steps each"):
        run(study, monkeypatch, "--table")
    assert study.place.page.read_text() == page


def test_a_reference_that_is_gone_is_trained_again(
    study: Any, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(study, monkeypatch, "--seeds", "1", "--only", "small")
    for model in study.models.iterdir():
        model.unlink()
    run(study, monkeypatch, "--seeds", "1", "--only", "no votes")
    assert [words[0] for words in trainings.commands] == ["train", "train", "eval", "eval"]
    assert len(study.results.read_text().splitlines()) == 2


def test_nothing_measured_writes_nothing(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(study, monkeypatch, "--table") == PAGE
