"""The tables of the docs are those of the results that are kept."""

import statistics

import pytest

from tests.unit.experiments import script


@pytest.mark.parametrize("name", ["accuracy", "multi_head"])
def test_the_page_has_the_table_of_the_results(name: str) -> None:
    study = script.load(name).STUDY
    assert study.place.read() == study.table(study.latest())


def test_the_page_has_what_auto_has_reached() -> None:
    auto_fit = script.load("auto_fit")
    assert auto_fit.PLACE.read() == auto_fit.table(auto_fit.latest())


def test_the_page_has_the_raccoons_in_five_parts() -> None:
    folds = script.load("folds")
    last = folds.KEPT.read()[-5:]
    page = (script.FOLDER.parents[1] / "docs" / "accuracy.md").read_text(encoding="utf-8")
    for one in last:
        row = f"| {one.fold} | {one.images} | {one.ap:.3f} | {one.ap50:.3f} | {one.ap75:.3f} | {one.seconds / 60:.1f} |"
        assert row in page
    means = [statistics.fmean(getattr(one, name) for one in last) for name in ("ap", "ap50", "ap75")]
    assert f"| mean | | {' | '.join(f'{mean:.3f}' for mean in means)} | |" in page
    (commit,) = {one.commit for one in last}
    assert f"(commit `{commit}`, one thread each)" in page
