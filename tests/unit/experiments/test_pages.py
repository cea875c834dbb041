"""The tables of the docs are those of the results that are kept."""

import pytest

from tests.unit.experiments import script


@pytest.mark.parametrize("name", ["accuracy", "multi_head"])
def test_the_page_has_the_table_of_the_results(name: str) -> None:
    study = script.load(name).STUDY
    assert study.place.read() == study.table(study.latest())


def test_the_page_has_what_auto_has_reached() -> None:
    auto_fit = script.load("auto_fit")
    assert auto_fit.PLACE.read() == auto_fit.table(auto_fit.latest())
