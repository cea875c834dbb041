"""What `pip install` brings: one OpenCV, and versions that this checkout was tested with."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {name_of(line): line for line in lines if line and not line.startswith("#")}


def test_every_dependency_of_ours_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ours = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {name_of(requirement) for requirement in ours} - set(pins()) == set()


# The first versions without a known hole where files of strangers are read; pyproject.toml says which.
FLOORS = {
    "torch": (2, 10),
    "pillow": (12, 3),
    "opencv-python-headless": (4, 12),
    "safetensors": (0, 5),
    "pyyaml": (6, 0),
}


@pytest.mark.parametrize("name", FLOORS)
def test_readers_of_foreign_files_are_new_enough(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (asked,) = (line for line in project["dependencies"] if name_of(line) == name)
    for text in (re.search(r">=([\d.]+)", asked), re.search(r"==([\d.]+)", pins()[name])):
        assert text is not None
        assert tuple(map(int, text[1].split(".")[:2])) >= FLOORS[name]


def test_a_pin_is_one_exact_version_from_the_index() -> None:
    assert [line for line in pins().values() if not re.fullmatch(r"[\w.-]+==[\w.+]+", line)] == []


def test_nothing_but_torch_decides_about_cuda() -> None:
    assert [name for name in pins() if re.match(r"nvidia|cuda|triton", name)] == []


def test_one_package_owns_cv2() -> None:
    # Two wheels of OpenCV write the same files, and the one with windows needs libGL.
    assert set(metadata.packages_distributions()["cv2"]) == {"opencv-python-headless"}
