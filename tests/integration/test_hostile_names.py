"""Names of images and classes reach logs, tables and files as text that steers nothing."""

import json
from pathlib import Path

import pytest

from detector.cli import main
from tests.integration import shapes
from tests.integration.conftest import TINY

CLASSES = ("box\x1b[2J\x07\nerror: pwned\r", "<img src=x onerror=alert(1)>\u202e[/red]")
FILES = ("a\x1b]0;title\x07.png", "=cmd()\nerror: pwned.png", "<script>alert(1)<&.png", "\u202egnp.exe.png")
BROKEN, GONE = "broken\x1b[2J\nerror: pwned.png", "gone\x1b[2J\nerror: pwned.png"
TEXTS = {".json", ".jsonl", ".log", ".yaml", ".html", ""}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("train", "val"):
        split = shapes.plain(folder, name)
        shapes.write(split, count=len(FILES), seed=1)
        tree = json.loads(split.annotations.read_text())
        for category, named in zip(tree["categories"], CLASSES, strict=True):
            category["name"] = named
        for image, named in zip(tree["images"], FILES, strict=True):
            (split.images / image["file_name"]).rename(split.images / named)
            image["file_name"] = named
        (split.images / BROKEN).write_text("no image")
        for number, named in enumerate((BROKEN, GONE), start=100):
            tree["images"].append({"id": number, "file_name": named, "width": 128, "height": 96})
        split.annotations.write_text(json.dumps(tree))
    return folder


def test_names_of_strangers(hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model = tmp_path / "run", str(tmp_path / "run" / "best.safetensors")
    images = [str(hostile / "images" / name) for name in (*FILES, BROKEN)]
    short = ["--steps", "3", "--set", "length.evaluations=1", "--set", "data.crops.share=0", "--workers", "0"]
    commands = (
        ["train", str(hostile), "--out", str(run), *short, *TINY, "--device", "cpu"],
        ["status", str(run)],
        ["eval", model, str(hostile), "--split", "val", "--out", str(tmp_path / "eval"), "--write-thresholds", "f1"],
        ["compare", str(run), str(run), "--out", str(tmp_path / "compare.html")],
        ["predict", model, *images, "--out", str(tmp_path / "found"), "--score", "0"],
    )
    for command in commands:
        assert main(command) == 0
        said = capsys.readouterr()
        lines = (said.out + said.err).splitlines()
        assert lines
        assert [line for line in lines if not line.isprintable() or line.startswith("error: ")] == []
    assert "pwned" in (run / "train.log").read_text()  # it was said, and as one line with what stands before it
    for path in tmp_path.rglob("*"):
        assert path.resolve().is_relative_to(tmp_path)
        if path.is_file() and path.suffix in TEXTS:
            assert "\x1b" not in path.read_text(), path
            assert not any(line.startswith("error:") for line in path.read_text().splitlines()), path


def test_no_picture_leaves_its_folder(hostile: Path, run_folder: Path, tmp_path: Path) -> None:
    """Names with dots, and the same stem again and again."""
    source = next((hostile / "images").glob("=cmd*"))
    names = ("..png.png", "...png", ". .png", "a..png", "CON.png", "-rf.png")
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / name).write_bytes(source.read_bytes())
    inputs = [str(tmp_path / "in" / name) for name in names]
    assert (
        main(["predict", str(run_folder / "best.safetensors"), *inputs, "--out", str(tmp_path / "out" / "found")]) == 0
    )
    pictures = [path for path in (tmp_path / "out" / "found").iterdir() if path.suffix == ".jpg"]
    assert len(pictures) == len(names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["found"]
