"""A report as a browser shows it: nothing fetched, nothing hidden, nothing that a name could do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.report import page
from tests.integration import browser
from tests.integration.browser import Browser, View
from tests.unit.report import test_page as made
from tests.unit.report.test_html import ATTACKS

PHONE, DESK = (390, 844), (1200, 900)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = browser.find()
    if program is None:
        assert os.environ.get("CI") != "true", "`.ci/run` installs Chromium; it is not here"
        pytest.skip("no Chromium is installed")
    with browser.started(program, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def names() -> list[str]:
    return [attack for attack in ATTACKS if attack.isprintable()]


@pytest.fixture(scope="module")
def report(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose classes, images and settings are named to break out."""
    folder = tmp_path_factory.mktemp("report")
    data = made.write_data(folder, [*names, "plain"], images=8)
    path = folder / "report.html"
    path.write_text(page.render(made.subject(data, run=made.write_run(folder / "run"))), encoding="utf-8")
    return path


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_it_is_whole_and_alone(size: tuple[int, int], is_dark: bool, report: Path, chromium: Browser) -> None:
    view = chromium.view(report.as_uri(), width=size[0], height=size[1], is_dark=is_dark)
    assert view.complaints == []
    assert [url for url in view.requests if not url.startswith("data:")] == [report.as_uri()]
    assert view.value("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    images = "[...document.images]"
    assert view.value(f"{images}.length") > 20
    assert view.value(f"{images}.filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt)") == []
    # Nothing wider than the page, which a finger would have to push about; tables scroll by themselves.
    assert view.value("document.documentElement.scrollWidth") <= size[0]
    assert is_readable(view)


def is_readable(view: View) -> bool:
    """Whether ink and paper are apart as WCAG asks of small text."""
    luminance = """
        (colour => { const [r, g, b] = colour.match(/[0-9.]+/g).map(x => x / 255)
            .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b })"""
    paper, *inks = (
        view.value(f"{luminance}(getComputedStyle(document.querySelector('{selector}')).{what})")
        for selector, what in (("body", "backgroundColor"), ("p", "color"), ("figcaption", "color"), ("nav a", "color"))
    )
    return all((max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5 for ink in inks)


def test_names_are_text(names: list[str], report: Path, chromium: Browser) -> None:
    view = chromium.view(report.as_uri(), width=DESK[0], height=DESK[1])
    cells = view.value("[...document.querySelectorAll('#scores tbody tr td:first-child')].map(c => c.textContent)")
    assert set(names) <= set(cells)
    assert view.value("document.title") == "Report <x>"
    assert "p1 <b>&'.png" in view.value("document.querySelector('#images').textContent")
    assert (
        view.value("document.querySelectorAll('script, iframe, object, form, svg, a:not([href^=\"#\"])').length") == 0
    )
    assert view.value("[...document.images].filter(i => !i.src.startsWith('data:')).length") == 0


def test_the_policy_stops_what_would_run_or_be_fetched(report: Path, chromium: Browser, tmp_path: Path) -> None:
    """The browser hears of it: what the other tests do not find is not there."""
    spoilt = tmp_path / "spoilt.html"
    bad = "<script>document.title = 'ran'</script><img src='https://example.org/a.png' alt=''><p style='width: 999px'>x"
    spoilt.write_text(report.read_text(encoding="utf-8").replace("</body>", f"{bad}</body>"), encoding="utf-8")
    view = chromium.view(spoilt.as_uri(), width=PHONE[0], height=PHONE[1])
    assert view.value("document.title") == "Report <x>"
    assert len(view.complaints) == 3
    assert all("Content Security Policy" in complaint for complaint in view.complaints)
