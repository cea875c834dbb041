"""The tables of the docs are those of the results that are kept."""

import pytest

from tests.unit.experiments import script


@pytest.mark.parametrize("name", ["accuracy", "multi_head"])
def test_the_page_has_the_table_of_the_results(name: str) -> None:
    study = script.load(name).STUDY
    assert study.shown() == study.table(study.latest())
