"""The file of a step that was not finite: computed again as it was, and refused where it is a stranger's."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from detector.errors import CheckpointError
from detector.model import detector as network
from detector.train import forensics
from detector.train.health import Suspect
from detector.train.learner import Learner
from tests.faults.child import NarrowBackbone
from tests.unit.train import make

HOSTILE = "a\x1b[2J\nerror: pwned.png"


@pytest.fixture(scope="module", autouse=True)
def _narrow() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "Backbone", NarrowBackbone)
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trained = make.trained(make.config())
    learner = Learner(trained.model, trained.config, dtype=torch.float32)
    batch = make.batch()
    learned = learner.learn(batch, 0.0)
    suspect = Suspect(step=1, progress=0.0, lr=learner.lr, stage=0, batch=batch, learned=learned)
    return forensics.write(tmp_path_factory.mktemp("run"), suspect, learner, trained, "float32", [HOSTILE, "b", "c"])


def changed(written: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(written, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_names_of_images_are_text(written: Path) -> None:
    again = forensics.replay(written)
    assert again.images == (HOSTILE, "b", "c")
    assert all(line.isprintable() for line in again.text().split("\n"))
    assert r"a\x1b[2J\nerror: pwned.png" in again.text()
    assert again.first_module is None


def test_boxes_that_are_not_finite_are_named_before_anything_else(written: Path, tmp_path: Path) -> None:
    assert forensics.replay(written).bad_boxes == ()

    def spoil(content: dict[str, Any]) -> None:
        targets = content["targets"]
        targets["is_object"][1:] = False
        targets["is_object"][1, 0] = True
        targets["boxes"][1, 0] = torch.tensor([1.0, 2.0, float("inf"), float("nan")])
        targets["boxes"][0] = 0.0
        targets["boxes"][2] = 0.0
        targets["boxes"][2, 0] = float("nan")  # of nothing

    again = forensics.replay(changed(written, tmp_path / "a.pt", spoil))
    said = "box 0 of b (x1, y1, x2, y2 = 1, 2, inf, nan)"
    padding = "padding 0 of c (x1, y1, x2, y2 = nan, nan, nan, nan)"
    assert again.bad_boxes == (said, padding)
    assert again.text().split("\n")[0] == f"not finite already in the batch: {said}"
    assert again.values()["bad_boxes"] == (said, padding)
    assert again.first_module is None

    def spoil_all(content: dict[str, Any]) -> None:
        content["targets"]["boxes"] = content["targets"]["boxes"][:, :1].repeat(1, 5, 1).fill_(float("nan"))
        content["targets"]["labels"] = content["targets"]["labels"][:, :1].repeat(1, 5)
        content["targets"]["is_object"] = torch.ones(3, 5, dtype=torch.bool)
        content["targets"]["is_crowd"] = None

    lines = forensics.replay(changed(written, tmp_path / "b.pt", spoil_all)).text().split("\n")
    assert lines[7].startswith("not finite already in the batch: box 2 of b")
    assert lines[8] == "not finite already in the batch: 7 boxes more"


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_code_in_it_is_never_run(written: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = changed(written, tmp_path / "a.pt", lambda content: content.update(extra=Evil(canary)))
    with pytest.raises(CheckpointError, match=r"a\.pt: is no nonfinite-step file of a run: it asks for"):
        forensics.replay(path)
    assert not canary.exists()


@pytest.mark.parametrize("content", [{}, [], None, {"format": "detector-nonfinite-0"}, torch.zeros(2)], ids=str)
def test_another_file_of_torch_save_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="is no nonfinite-step file of a run"):
        forensics.replay(tmp_path / "a.pt")


def test_a_tensor_without_its_numbers_is_refused(written: Path, tmp_path: Path) -> None:
    bomb = torch.zeros(1, dtype=torch.uint8).expand(10**4, 3, 10**4, 10**4)
    path = changed(written, tmp_path / "a.pt", lambda content: content.update(images=bomb))
    with pytest.raises(CheckpointError, match="claims more numbers than it has"):
        forensics.replay(path)


def test_no_memory_is_taken_for_a_network_that_is_not_in_the_file(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def widen(content: dict[str, Any]) -> None:
        tree = yaml.safe_load(content["config"])
        for head in tree["model"]["heads"]:
            head["tower"] = {"depth": 8, "width": 2048}
        content["config"] = yaml.safe_dump(tree)

    build = network.build

    def watched(*arguments: Any, **options: Any) -> Any:
        assert torch.empty(0).is_meta, "a network was built before its size was known"
        return build(*arguments, **options)

    path = changed(written, tmp_path / "a.pt", widen)
    monkeypatch.setattr(network, "build", watched)
    with pytest.raises(CheckpointError, match="its weights do not fit its settings"):
        forensics.replay(path)


WRONG: dict[str, Callable[[dict[str, Any]], object]] = {
    "boxes of three sides": lambda content: content["targets"].update(boxes=torch.zeros(3, 4, 3)),
    "classes that are not there": lambda content: content["targets"]["labels"].fill_(10**6),
    "fewer boxes than images": lambda content: content["targets"].update(boxes=torch.zeros(2, 4, 4)),
    "images of one side": lambda content: content.update(images=torch.zeros(3, dtype=torch.uint8)),
    "a stage beyond the last": lambda content: content.update(stage=7),
    "words for images": lambda content: content.update(images="b"),
    "a precision of its own": lambda content: content.update(precision="int1"),
    "a canvas of its own": lambda content: content["preprocess"].update(canvas_hw=(1, 2, 3)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_step_is_an_error_of_the_file(name: str, written: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pt: was damaged, or written by another version"):
        forensics.replay(changed(written, tmp_path / "a.pt", WRONG[name]))


PARTS = ("config", "objective", "targets", "images", "stage", "preprocess", "precision", "files")


@pytest.mark.parametrize("key", PARTS)
def test_what_is_missing_is_an_error_of_the_file(key: str, written: Path, tmp_path: Path) -> None:
    path = changed(written, tmp_path / "a.pt", lambda content: content.pop(key))
    with pytest.raises(CheckpointError, match=r"a\.pt: was damaged, or written by another version"):
        forensics.replay(path)


def test_a_raw_pickle_of_a_newer_protocol_is_refused(tmp_path: Path) -> None:
    """Its calls go by other words than those that are looked for."""
    canary = tmp_path / "canary"
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"format": Evil(canary)}, protocol=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError, match="is no nonfinite-step file of a run"):
            forensics.replay(tmp_path / "a.pt")
    assert not canary.exists()
