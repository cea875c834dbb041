import os
from pathlib import Path

import pytest

from detector.errors import DataError
from detector.predict.sources import find_images


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, other files and a folder inside; it is also the working directory."""
    for name in ("b.jpg", "a.PNG", "c.webp", "notes.txt", "._b.jpg", "deep/z.jpg", "deep/er/y.tif"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*sources: str) -> list[str]:
    return [path.as_posix() for path in find_images(sources)]


@pytest.mark.usefixtures("photos")
def test_a_folder_gives_its_images_sorted_and_nothing_deeper() -> None:
    assert names(".") == ["a.PNG", "b.jpg", "c.webp"]


@pytest.mark.usefixtures("photos")
def test_a_pattern() -> None:
    assert names("*.jpg") == ["b.jpg"]
    assert names("[ab].*") == ["a.PNG", "b.jpg"]
    assert names("**/*") == ["a.PNG", "b.jpg", "c.webp", "deep/er/y.tif", "deep/z.jpg"]


def test_absolute_sources(photos: Path) -> None:
    assert find_images([str(photos)]) == (photos / "a.PNG", photos / "b.jpg", photos / "c.webp")
    assert find_images([f"{photos}/d*/*"]) == (photos / "deep" / "z.jpg",)


@pytest.mark.usefixtures("photos")
def test_sources_keep_their_order_and_every_file_comes_once() -> None:
    assert names("deep", "b.jpg", "./b.jpg", "deep/../b.jpg", ".") == ["deep/z.jpg", "b.jpg", "a.PNG", "c.webp"]


@pytest.mark.usefixtures("photos")
def test_a_named_file_is_taken_whatever_its_suffix() -> None:
    assert names("notes.txt") == ["notes.txt"]


def test_a_file_whose_name_looks_like_a_pattern(photos: Path) -> None:
    (photos / "a[1].jpg").touch()
    assert names("a[1].jpg") == ["a[1].jpg"]


def test_links_count_as_files_of_their_own(photos: Path) -> None:
    (photos / "deep" / "link.jpg").symlink_to(photos / "b.jpg")
    assert names("b.jpg", "deep") == ["b.jpg", "deep/link.jpg", "deep/z.jpg"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.jpg", r"^none.jpg: no such file or folder; check the path"),
        ("https://example.org/a.jpg", r"no such file or folder"),
        ("empty", r"^empty: the folder has no image \(.*\.jpg.*\); give another"),
        ("x*.jpg", r"^x\*.jpg: the pattern has no image"),
        ("", "is no path"),
        ("  ", "is no path"),
        ("a\0b.jpg", "is no path"),
    ],
)
@pytest.mark.usefixtures("photos")
def test_a_source_without_images_is_named(source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_images(["b.jpg", source])


def test_a_pipe_is_refused_and_not_waited_for(photos: Path) -> None:
    os.mkfifo(photos / "pipe.jpg")
    assert "pipe.jpg" not in names(".")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        find_images(["pipe.jpg"])


def test_no_source_at_all() -> None:
    with pytest.raises(DataError, match="no image given"):
        find_images([])
