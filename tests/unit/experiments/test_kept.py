"""Results of experiments are kept whatever happens."""

from dataclasses import dataclass
from pathlib import Path

from tests.unit.experiments import script

kept = script.load("kept")


@dataclass(frozen=True)
class One:
    name: str
    ap: float


def test_results_come_back_in_order(tmp_path: Path) -> None:
    results = kept.Results(tmp_path / "a.jsonl", One)
    assert results.read() == []
    for one in (One("x", 0.5), One("y", 0.25)):
        results.add(one)
    assert results.read() == [One("x", 0.5), One("y", 0.25)]
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2


def test_a_line_that_was_cut_short_harms_no_other(tmp_path: Path) -> None:
    results = kept.Results(tmp_path / "a.jsonl", One)
    results.add(One("x", 0.5))
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"name": "y", "a')
    results.add(One("z", 1.0))
    assert results.read() == [One("x", 0.5), One("z", 1.0)]
