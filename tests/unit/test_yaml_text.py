"""What is wrong with text that is no YAML is said in words for whoever wrote it, with the place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector import yaml_text

SPACES = "it is indented otherwise than the lines above"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n\tb: 2", "line 2, column 1 (b: 2): tabs do not indent: use spaces"),
        ("a: b: c", "line 1, column 5 (a: b: c): a second `: ` stands in the line"),
        ("optim:\n   lr: 1\n  wd: 2", f"line 3, column 3 (wd: 2): {SPACES}"),
        ("a: 1\nb: 'x", "line 2, column 4 (b: 'x): a quotation mark is not closed: close it"),
        ("a: [1, 2", "line 1, column 4 (a: [1, 2): a bracket is not closed, or a comma is missing"),
        ("a: {b: 1\nc: 2", "line 1, column 4 (a: {b: 1): a bracket is not closed, or a comma is missing"),
        ("a: |\n b\nc", "line 3, column 2 (c): write `key: value`, with a space behind the colon"),
        ("a: @b", "line 1, column 4 (a: @b): put text that begins with this character in quotes"),
        ('a: "\\q"', 'line 1, column 6 (a: "\\q"): in double quotes a backslash begins an escape: use single quotes'),
        ("a: !!python/name:os.getcwd", "line 1, column 4 (a: !!python/name:os.getcwd): tags (!...) are not taken"),
        ("a: &x {b: 1}\nc:\n  <<: *x", "line 3, column 3 (<<: *x): merge keys (<<) are not taken"),
        ("a: *b", "line 1, column 4 (a: *b): the alias (*...) has no anchor"),
        (
            "a: 1\nb: 2020-13-45",
            "line 2, column 4 (b: 2020-13-45): there is no such number or date",
        ),
        ("seed: 3\nseed: 4", "line 2, column 1 (seed: 4): 'seed' stands twice, first in line 1: keep one"),
        ("a:\n  b: 1\n  c: 2\n  'b': 3", "line 4, column 3 ('b': 3): 'b' stands twice, first in line 2: keep one"),
        ("a: [{b: 1, c: 2, b: 3}]", "line 1, column 18 (a: [{b: 1, c: 2, b: 3}]): 'b' stands twice"),
        ("a: 1\n---\nb: 2", "line 2, column 1 (---): a second document (---) begins: keep one"),
        ("a: 1\nb: \x00", "line 2, column 4: a character that text cannot hold (number 0x0000): remove it"),
        ("[" * 9000, "it is nested too deeply"),
        (f"{'x' * 90}: 1: 2", f"line 1, column 94 ({'x' * 57}...): a second"),
    ],
)
def test_place_and_cure(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        yaml_text.parsed(text)
    assert str(caught.value).startswith(said)


@given(st.text(alphabet="ab:- \n\t'\"[]{}&*!|>?,#%@<0", max_size=30))
def test_whatever_is_wrong_is_one_line_without_names_of_the_parser(text: str) -> None:
    said = ""
    try:
        yaml_text.parsed(text)
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
    assert ("column" in said) == bool(said)
    assert not any(word in said.rpartition("): ")[2] for word in ("<block", "token", "scanning", "parsing", "None"))
