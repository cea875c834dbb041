import io
import sys

import pytest

from detector import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_a_bar_on_a_terminal_only(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    screen = stream()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.shown("scoring") as show:
        show(3, 8)
        show(8, 8)
    assert ("scoring" in screen.getvalue()) == ("8/8" in screen.getvalue()) == (stream is Terminal)
    assert capsys.readouterr().out == ""
