from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.report import html
from detector.report.html import Html, tag

ATTACKS = (
    "<img src=x onerror=alert(1)>",
    '"></figure><script>alert(1)</script>',
    "javascript:alert(1)",
    "' onload='alert(1)",
    "</style><script>",
    "\x1b[31mred\x07",
    "a\u202eb",
    "&lt;b&gt;",
    "\ud800",
)


class Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[str]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(markup: str) -> Tags:
    parser = Tags()
    parser.feed(markup)
    parser.close()
    return parser


@given(st.text() | st.sampled_from(ATTACKS))
def test_text_stays_text(text: str) -> None:
    parser = seen(tag("p", text, title=text))
    assert parser.tags == [("p", ["title"])]
    if text.isprintable():
        assert parser.text == text


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_cannot_be_seen_is_spelt_out(attack: str) -> None:
    made = tag("p", attack)
    assert all(letter.isprintable() for letter in made)
    made.encode("utf-8")


def test_a_name_makes_no_lines_and_settings_do() -> None:
    assert tag("p", "a\nerror: b", title="c\nd") == r'<p title="c\nd">a\nerror: b</p>'
    assert tag("pre", html.lines("a: 1\nb: <")) == "<pre>a: 1\nb: &lt;</pre>"


def test_markup_of_ours_is_kept_and_joins() -> None:
    assert tag("p", tag("b", "x"), " < ", 3, None, class_="a", id=None) == '<p class="a"><b>x</b> &lt; 3</p>'
    assert isinstance(html.together("a", Html("<br>")), Html)
    assert tag("meta", http_equiv="x") == '<meta http-equiv="x">'


def test_a_table_aligns_numbers() -> None:
    made = html.table(["class", "AP"], [["<i>", "0.5"]])
    assert "<td>&lt;i&gt;</td>" in made
    assert '<td class="n">0.5</td>' in made
