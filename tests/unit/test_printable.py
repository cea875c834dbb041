import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.printable import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Füchse 日本", "Füchse 日本"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("a\nerror: b\r", r"a\nerror: b\r"),
        ("a\u202eb\u200b", r"a\u202eb\u200b"),
        ("\ud800\udcff", r"\ud800\udcff"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_what_cannot_be_seen_is_spelt_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters()))
def test_the_rest_is_one_printable_line_of_utf8(text: str) -> None:
    made = visible(text)
    assert made.isprintable()
    made.encode()
    assert visible(made) == made
