"""Wrong options are answered in one line."""

import pytest

from detector import cli
from detector.cli import usage


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("train d --steps x", "--steps must be a whole number, got 'x'"),
        ("train d --steps 1.5", "--steps must be a whole number, got '1.5'"),
        ("train d --lr None", "--lr must be a number, got 'None'"),
        ("train d --batch-size some", "--batch-size must be a whole number or auto, got 'some'"),
        ("predict a b --score high", "--score must be a number, got 'high'"),
        ("train d --device gpu", "--device must be one of auto, cpu, cuda, got 'gpu'"),
        ("eval m d --split tset", "--split must be one of train, val, test, got 'tset'"),
        ("train d --lr", "--lr needs a value"),
        ("train d --epochs 1 --steps 2", "--epochs and --steps exclude each other; keep one"),
        ("train d --recipe small --config f", "--recipe and --config exclude each other; keep one"),
        ("train d e", "not understood: e; detector train --help lists what there is"),
        ("train d --recpe small", "not understood: --recpe, small; did you mean --recipe?"),
        ("split", "detector split needs FILE and --out; detector split --help lists what there is"),
        ("compare a", "detector compare needs B; detector compare --help lists what there is"),
        ("benchmark evla", "not understood: evla; known: train, infer, operations"),
        ("benchmark", "detector benchmark needs one of train, infer, operations"),
    ],
)
@pytest.mark.parametrize("width", ["40", "200"])
def test_the_cause_and_the_cure(
    line: str, answer: str, width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {answer}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_what_is_not_known_is_told_as_it_is() -> None:
    box = "╭─ New ──╮\n│ A new  │\n│ error. │\n│ ────── │\n│ For full helptext, run x │\n╰────────╯\n"
    assert usage.in_one_line(box, "detector x") == "A new error.; detector x --help lists what there is"
