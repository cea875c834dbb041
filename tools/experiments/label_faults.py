"""How much of AP do wrong labels cost? Draw what a model and the labels disagree about, and score without it.

    python tools/experiments/label_faults.py draw eval-test/predictions.json data/blood-cells --out sheets
    python tools/experiments/label_faults.py score eval-test/predictions.json data/blood-cells --faults faults.json
    python tools/experiments/label_faults.py show a.jpg b.jpg c.jpg data/blood-cells --faults faults.json --out x.jpg

`draw` writes sheets of four pictures with numbered boxes, and `faults.json`, in which every box of the model that meets
no label is called `unlabelled`. A person looks at the sheets, takes out what is no object, and adds labels that are
wrong by their annotation id. `score` then counts detections on these places neither for nor against the model. No label
is corrected by the model's own boxes, so localization is judged by what people drew. `show` draws the faults of some
pictures side by side: labels in green, what lacks one in red.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from detector.data import layout
from detector.evaluate import coco
from detector.geometry import boxes

Box = Sequence[float]
Row = dict[str, Any]
MIN_SCORE = 0.35
MEETS = 0.4
"""IoU from which a box of the model is about that label, however badly."""
BORDER = 2.0
ZOOM, A_SHEET, ACROSS = 1.4, 4, 2
LABEL, NOT_FOUND, EXTRA = (0, 160, 0), (0, 220, 255), (0, 0, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One place where the labels are wrong."""

    file_name: str
    category: str
    fault: str
    """unlabelled, nothing there, doubled, wrong class, or box off."""
    bbox: tuple[float, ...]
    """Left, top, width, height in pixels of the picture."""
    annotation: int | None = None
    """Id of the label; None where there is none."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("draw", "score", "show"))
    parser.add_argument("inputs", nargs="+", help="a file of predictions, or names of pictures")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--out", type=Path, help="a new folder to draw into, or the picture to show")
    parser.add_argument("--faults", type=Path, default=None)
    options = parser.parse_args()
    if options.what != "score" and options.out is None:
        parser.error(f"{options.what} needs --out")
    if options.what == "draw" and options.out.exists():
        parser.error(f"{options.out} is there already")
    files = layout.find(options.data, options.split)
    truth = json.loads(files.annotations.read_text(encoding="utf-8"))
    if options.what == "draw":
        results = cast("list[Row]", json.loads(Path(options.inputs[0]).read_text(encoding="utf-8")))
        draw(truth, results, files.images, options.out)
        return
    if options.faults is None:
        parser.error(f"{options.what} needs --faults")
    faults = [Fault(**row) for row in json.loads(options.faults.read_text(encoding="utf-8"))]
    if options.what == "score":
        score(truth, Path(options.inputs[0]), faults)
    else:
        show(truth, options.inputs, faults, files.images, options.out)


def draw(truth: dict[str, list[Row]], results: Sequence[Row], images: Path, out: Path) -> None:
    out.mkdir(parents=True)
    names = {one["id"]: one["name"] for one in truth["categories"]}
    found: list[Fault] = []
    tiles: list[NDArray[np.uint8]] = []
    for image in sorted(truth["images"], key=lambda one: one["file_name"]):
        labels = [one for one in truth["annotations"] if one["image_id"] == image["id"]]
        seen = [one for one in results if one["image_id"] == image["id"] and one["score"] >= MIN_SCORE]
        extra = extras(seen, labels)
        found += [_unlabelled(image, one, names) for one in extra]
        picture = cv2.imread(str(images / image["file_name"]))
        assert picture is not None, image["file_name"]
        tiles.append(_tile(np.asarray(picture, np.uint8), image["file_name"], labels, seen, extra))
    for first in range(0, len(tiles), A_SHEET):
        cv2.imwrite(str(out / f"{first // A_SHEET:02d}.png"), _sheet(tiles[first : first + A_SHEET]))
    (out / "faults.json").write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(found)} boxes that meet no label, on {len(tiles)} pictures: {out}\n")


def show(truth: dict[str, list[Row]], names: Sequence[str], faults: Sequence[Fault], images: Path, out: Path) -> None:
    number = {image["file_name"]: image["id"] for image in truth["images"]}
    tiles: list[NDArray[np.uint8]] = []
    for name in names:
        picture = cv2.imread(str(images / name))
        assert picture is not None, name
        tile = np.asarray(cv2.resize(picture, None, fx=ZOOM, fy=ZOOM), np.uint8)
        for label in truth["annotations"]:
            if label["image_id"] == number[name]:
                _frame(tile, label["bbox"], "", LABEL)
        for fault in faults:
            if fault.file_name == name and fault.annotation is None:
                _frame(tile, fault.bbox, "", EXTRA)
        tiles.append(tile)
    picture = cv2.resize(np.hstack(tiles), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    if not cv2.imwrite(str(out), picture):
        sys.exit(f"{out}: cannot be written")


def extras(seen: Sequence[Row], labels: Sequence[Row]) -> list[Row]:
    """Detections that are about no label and about no better detection."""
    kept: list[Row] = []
    for one in sorted(seen, key=lambda row: -row["score"]):
        if all(_iou(one["bbox"], other["bbox"]) < MEETS for other in (*labels, *kept)):
            kept.append(one)
    return kept


def _unlabelled(image: Row, one: Row, names: dict[int, str]) -> Fault:
    box = tuple(round(float(side), 1) for side in one["bbox"])
    return Fault(file_name=image["file_name"], category=names[one["category_id"]], fault="unlabelled", bbox=box)


def _tile(
    picture: NDArray[np.uint8], name: str, labels: Sequence[Row], seen: Sequence[Row], extra: Sequence[Row]
) -> NDArray[np.uint8]:
    tile = np.asarray(cv2.resize(picture, None, fx=ZOOM, fy=ZOOM), np.uint8)
    for label in labels:
        is_found = any(
            one["category_id"] == label["category_id"] and _iou(one["bbox"], label["bbox"]) >= 0.5 for one in seen
        )
        _frame(tile, label["bbox"], str(label["id"]), LABEL if is_found else NOT_FOUND)
    for number, one in enumerate(extra):
        _frame(tile, one["bbox"], f"#{number}", EXTRA)
    cv2.putText(tile, name, (5, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 2)
    return tile


def _frame(tile: NDArray[np.uint8], box: Box, word: str, colour: tuple[int, int, int]) -> None:
    left, top, width, height = (round(side * ZOOM) for side in box)
    cv2.rectangle(tile, (left, top), (left + width, top + height), colour, 2)
    cv2.putText(tile, word, (left + 3, top + 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1)


def _sheet(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    blank = np.zeros_like(tiles[0])
    whole = [*tiles, *[blank] * (A_SHEET - len(tiles))]
    return np.vstack([np.hstack(whole[first : first + ACROSS]) for first in range(0, A_SHEET, ACROSS)])


def score(truth: dict[str, list[Row]], predictions: Path, faults: Sequence[Fault]) -> None:
    counts = Counter(one.fault for one in faults)
    sys.stdout.write(", ".join(f"{count} {fault}" for fault, count in counts.items()) + "\n")
    unlabelled = [one for one in faults if one.annotation is None]
    size = {image["file_name"]: (image["width"], image["height"]) for image in truth["images"]}
    file_of = {image["id"]: image["file_name"] for image in truth["images"]}
    cut = sum(is_at_border(one.bbox, size[one.file_name]) for one in unlabelled)
    labels = [one for one in truth["annotations"] if not one["iscrowd"]]
    of_labels = sum(is_at_border(one["bbox"], size[file_of[one["image_id"]]]) for one in labels)
    sys.stdout.write(f"at a border: {cut} of {len(unlabelled)} without a label, {of_labels} of {len(labels)} labels\n")
    wrong = [one for one in faults if one.annotation is not None]
    for name, left_out in (
        ("labels as they are", ()),
        ("without unlabelled objects", unlabelled),
        ("without wrong labels", wrong),
        ("without both", faults),
    ):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "truth.json")
            path.write_text(json.dumps(ignored(truth, left_out)), encoding="utf-8")
            scores = coco.score(path, predictions)
        classes = "  ".join(f"{one.name} {one.ap:.3f}" for one in scores.per_class)
        sys.stdout.write(f"{name:28}AP {scores.ap:.3f}  AP50 {scores.ap50:.3f}  AP75 {scores.ap75:.3f}  {classes}\n")


def is_at_border(box: Box, size_wh: tuple[int, int]) -> bool:
    """Whether it comes within `BORDER` pixels of a side of its picture."""
    left, top, width, height = box
    return min(left, top, size_wh[0] - left - width, size_wh[1] - top - height) <= BORDER


def ignored(truth: dict[str, list[Row]], faults: Sequence[Fault]) -> dict[str, list[Row]]:
    """The ground truth with these places as regions to ignore."""
    number = {image["file_name"]: image["id"] for image in truth["images"]}
    category = {one["name"]: one["id"] for one in truth["categories"]}
    wrong = {one.annotation for one in faults}
    next_id = max(one["id"] for one in truth["annotations"]) + 1
    regions = [
        {
            "id": next_id + index,
            "image_id": number[one.file_name],
            "category_id": category[one.category],
            "bbox": list(one.bbox),
            "area": one.bbox[2] * one.bbox[3],
            "iscrowd": 1,
        }
        for index, one in enumerate(one for one in faults if one.annotation is None)
    ]
    kept = [one | {"iscrowd": 1} if one["id"] in wrong else one for one in truth["annotations"]]
    return truth | {"annotations": [*kept, *regions]}


def _iou(a: Box, b: Box) -> float:
    corners = torch.tensor([(left, top, left + width, top + height) for left, top, width, height in (a, b)]).double()
    return float(boxes.iou(corners[0], corners[1]))


if __name__ == "__main__":
    main()
