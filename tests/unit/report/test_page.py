"""A whole report of made-up data: offline, small, safe, and it says what there is."""

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.analysis import analyse
from detector.analysis.analyse import Analysis
from detector.data import coco
from detector.evaluate import coco as scoring
from detector.evaluate.results import Results
from detector.report import compare_page, label_queue, page, pictures, run_sections
from detector.report.compare_page import Flip, Side
from detector.report.page import Subject
from tests.unit.report.test_html import ATTACKS, seen

LIMIT = 10 * 2**20


def write_data(folder: Path, names: list[str], *, images: int = 6, side: int = 64) -> Path:
    """Noise, which no JPEG makes small, with a box or two in each image."""
    rng = np.random.default_rng(0)
    tree: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(names)],
    }
    for k in range(images):
        name = f"p{k} <b>&'.png"
        Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(folder / name)
        tree["images"].append({"id": k + 1, "file_name": name, "width": side, "height": side})
        for box in ([5, 5, 20, 20], [35, 30, 20, 25]):
            number = len(tree["annotations"]) + 1
            label = int(rng.integers(len(names))) + 1
            tree["annotations"].append(
                {"id": number, "image_id": k + 1, "category_id": label, "bbox": box, "area": 400, "iscrowd": 0}
            )
    path = folder / "val.json"
    path.write_text(json.dumps(tree))
    return path


def results(path: Path, seed: int = 1) -> Results:
    """Some right, some wrong, some missing."""
    rng = np.random.default_rng(seed)
    tree = json.loads(path.read_text())
    rows = [one for one in tree["annotations"] if rng.random() < 0.8]
    wrong = [{**one, "bbox": [40, 2, 15, 15]} for one in rows[::3]]
    every = rows + wrong
    return Results(
        image_ids=np.array([one["image_id"] for one in every], np.int64),
        category_ids=np.array([one["category_id"] for one in every], np.int64),
        boxes_xywh=np.array([one["bbox"] for one in every], np.float64) + rng.normal(0, 0.5, (len(every), 4)),
        scores=rng.uniform(0.3, 1, len(every)),
    )


def subject(path: Path, *, run: Path | None = None) -> Subject:
    columns = coco.read(path, path.parent)
    analysis = analyse.analyse(scoring.read_truth(path), results(path))
    return Subject(
        title="Report <x>",
        model="m & m",
        analysis=analysis,
        paths={row: columns.path(row) for row in range(len(columns))},
        splits={"val": columns},
        run=None if run is None else run_sections.read_facts(run),
        labels_file="labels.json",
    )


def write_run(folder: Path) -> Path:
    folder.mkdir()
    (folder / "environment.json").write_text(json.dumps({"command": ["detector", "train", "a b</pre>"], "torch": "2"}))
    (folder / "config.yaml").write_text("seed: 0\n# </pre><script>\n")
    rows: list[dict[str, Any]] = [
        {
            "kind": "train",
            "step": step,
            "stage": "",
            "branches": [{"name": n, "loss": 1 / step, "share": 0.5} for n in ("<a>", "b")],
            "cosines": [],
            "images_per_second": 10.0,
            "seconds": 60.0 * step,
        }
        for step in (1, 2, 3)
    ]
    rows += [{"kind": "evaluation", "step": step, "ap": 0.1 * step, "ap50": 0.2} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"kind": "tr')
    return folder


def require_safe(content: str) -> None:
    """Nothing is fetched, nothing runs, and the policy says so."""
    parser = seen(content)
    names = {name for name, _ in parser.tags}
    assert not names & {"script", "iframe", "object", "embed", "link", "form", "svg", "base", "video", "audio"}
    attributes = {name for _, attrs in parser.tags for name in attrs}
    assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert set(re.findall(r' src="([a-z]+:)', content)) <= {"data:"}
    assert all(link.startswith("#") for link in re.findall(r' href="([^"]*)"', content))
    assert "url(" not in content
    assert "@import" not in content
    (style,) = re.findall(r"<style>(.*?)</style>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', content)
    assert f"sha256-{digest}" in policy
    assert "default-src &#x27;none&#x27;" in policy


def test_a_report_with_hostile_names(tmp_path: Path) -> None:
    names = [f"{attack} {k}" for k, attack in enumerate(ATTACKS) if attack != "\ud800"]
    path = write_data(tmp_path, [*names, "$x^2$", "_hidden"])
    content = page.render(subject(path, run=write_run(tmp_path / "run")))
    require_safe(content)
    assert content.startswith("<!DOCTYPE html>")
    assert 'name="viewport"' in content
    assert "prefers-color-scheme: dark" in content
    assert len(content) < LIMIT
    for part in ("scores", "errors", "boxes", "curves", "images", "labels", "data", "training", "repeat"):
        assert f'<section id="{part}"' in content
        assert f'href="#{part}"' in content
    assert "detector train" in content
    assert "3 steps, 3.0 minutes, 10.0 images a second" in content
    # The pictures and the plots, each with words for who cannot see them.
    assert content.count("<img") == content.count(" alt=")
    assert content.count("data:image/jpeg") >= 6
    assert content.count("data:image/svg+xml") >= 8


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    path = write_data(tmp_path, ["a"], images=2)
    assert page.render(subject(path)) == page.render(subject(path))


def test_a_large_report_stays_small(tmp_path: Path) -> None:
    path = write_data(tmp_path, [f"class {k}" for k in range(400)], images=13, side=900)
    content = page.render(subject(path))
    assert len(content) < LIMIT
    assert "100 more classes are not shown" in content


def test_without_run_objects_or_detections(tmp_path: Path) -> None:
    path = write_data(tmp_path, ["a"], images=2)
    tree = json.loads(path.read_text())
    path.write_text(json.dumps({**tree, "annotations": []}))
    columns = coco.read(path, tmp_path)
    none = Results(
        image_ids=np.empty(0, np.int64),
        category_ids=np.empty(0, np.int64),
        boxes_xywh=np.empty((0, 4)),
        scores=np.empty(0),
    )
    analysis = analyse.analyse(scoring.read_truth(path), none)
    paths = {row: columns.path(row) for row in range(2)}
    content = page.render(
        Subject(title="t", model="m", analysis=analysis, paths=paths, splits={}, run=None, labels_file="l")
    )
    require_safe(content)
    assert "No image has an error." in content
    assert 'id="training"' not in content


def test_an_image_that_is_gone_is_said(tmp_path: Path) -> None:
    path = write_data(tmp_path, ["a"], images=3)
    made = subject(path)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    content = page.render(made)
    require_safe(content)
    assert "data:image/jpeg" not in content
    assert "p1 &lt;b&gt;&amp;&#x27;.png" in content


def test_pictures_colour_right_wrong_and_missed(tmp_path: Path) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": k + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0}
            for k, box in enumerate(([10, 10, 20, 20], [10, 60, 20, 20]))
        ],
    }
    path = tmp_path / "val.json"
    path.write_text(json.dumps(tree))
    found = Results(
        image_ids=np.array([1, 1]),
        category_ids=np.array([1, 1]),
        boxes_xywh=np.array([[10.0, 10, 20, 20], [60, 60, 20, 20]]),
        scores=np.array([0.9, 0.8]),
    )
    analysis = analyse.analyse(scoring.read_truth(path), found, thresholds=[0.5])

    drawn = np.asarray(Image.open(io.BytesIO(pictures.judged(analysis, 0, tmp_path / "a.png")))).astype(int)

    def share(at: tuple[slice, slice], colour: tuple[int, int, int]) -> float:
        return float((np.abs(drawn[at] - np.array(colour)).max(axis=-1) < 90).mean())

    bottoms = {"right": slice(10, 30), "missed": slice(10, 30), "wrong": slice(60, 80)}
    assert share((slice(29, 31), bottoms["right"]), pictures.RIGHT) > 0.8
    assert share((slice(79, 81), bottoms["wrong"]), pictures.WRONG) > 0.8
    assert 0.2 < share((slice(79, 81), bottoms["missed"]), pictures.MISSED) < 0.8  # dashed


def test_the_queue_is_a_coco_file(tmp_path: Path) -> None:
    path = write_data(tmp_path, ["a", "b"])
    before = path.read_bytes()
    analysis: Analysis = subject(path).analysis
    made = tmp_path / "queue.json"
    made.write_text(label_queue.text(label_queue.as_coco(analysis, analysis.suspects)))
    assert path.read_bytes() == before
    again = coco.read(made, tmp_path)
    assert len(again.labels) == len(analysis.suspects) > 0
    tree = json.loads(made.read_text())
    originals = {one["id"]: one for one in json.loads(before)["annotations"]}
    assert [one["rank"] for one in tree["annotations"]] == [*range(1, len(analysis.suspects) + 1)]
    for one, suspect in zip(tree["annotations"], analysis.suspects, strict=True):
        assert one["doubt"] == suspect.doubt
        if suspect.doubt == "unlabelled":
            assert one["id"] not in originals
            assert one["bbox"] == one["proposal"]["bbox"]
        else:
            assert {key: one[key] for key in originals[one["id"]]} == originals[one["id"]]


def test_a_comparison_shows_what_flipped(tmp_path: Path) -> None:
    path = write_data(tmp_path, ["<a>", "b"])
    columns = coco.read(path, tmp_path)
    paths = {row: columns.path(row) for row in range(len(columns))}
    truth = scoring.read_truth(path)
    a, b = (Side(name=f"<{k}>", analysis=analyse.analyse(truth, results(path, k)), paths=paths) for k in (1, 2))
    pairs = zip(a.analysis.tallies, b.analysis.tallies, strict=True)
    flips = [Flip(image_row=x.image_row, before=x, after=y) for x, y in pairs if x.errors != y.errors]
    assert flips
    content = compare_page.render(a, b, (), [("optim.lr", "<1>", "2")], [], flips)
    require_safe(content)
    assert content.count("data:image/jpeg") == 2 * len(flips)
    assert "&lt;1&gt;" in content


@pytest.mark.parametrize("text", ["{", "[]", '{"command": "x y"}'])
def test_a_damaged_run_folder_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / "environment.json").write_text(text)
    facts = run_sections.read_facts(tmp_path)
    assert facts.environment == {}
    assert run_sections.training(facts) is None
    assert run_sections.repeat(facts)
