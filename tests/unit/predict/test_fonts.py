import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from detector.predict import fonts


def test_ascii_stays() -> None:
    assert fonts.fit("Red cell_2 0.87 (new)", 14)[1] == "Red cell_2 0.87 (new)"


@pytest.mark.parametrize(("text", "clean"), [("a\nb\tc", "a b c"), ("\x1b[2Ja", "[2Ja"), ("  a  ", "a"), ("", "")])
def test_control_characters_and_spaces(text: str, clean: str) -> None:
    assert fonts.fit(text, 14)[1] == clean


def test_a_letter_that_no_font_has_is_a_question_mark() -> None:
    assert fonts.fit("a\U000e0fffb\ue123", 14)[1] in ("ab", "ab?", "a b", "a?b?", "a b?")


def test_accents_survive_or_are_dropped() -> None:
    assert fonts.fit("Mädchen", 14)[1] in ("Mädchen", "Madchen")


@given(st.text(st.characters(codec=None), max_size=20), st.integers(6, 40))
def test_any_text_can_be_drawn(text: str, size: int) -> None:
    font, shown = fonts.fit(text, size)
    assert len(shown.splitlines()) <= 1
    ImageDraw.Draw(Image.new("RGB", (50, 50))).text((0, 0), shown, font=font)
