"""Reading a large COCO file: `detector.data.coco.read`, with all its checks, beside pycocotools' `COCO(file)`."""

import contextlib
import dataclasses
import hashlib
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO

from detector.benchmark import coco_files, contest
from detector.benchmark.contest import Measured, Report
from detector.data import coco
from detector.data.columns import Columns

NUM_IMAGES = 120_000  # as COCO's train2017, with some more objects
NUM_OBJECTS = 1_000_000
WAYS = ("detector", "pycocotools")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    num_images: int = NUM_IMAGES
    num_objects: int = NUM_OBJECTS
    polygons: bool = False
    rounds: int = 5


def measure(settings: Settings, say: Callable[[str], None]) -> Report:
    """Run the benchmark; `say` is told what goes on."""
    with tempfile.TemporaryDirectory() as folder:
        path, images = Path(folder, "truth.json"), Path(folder, "images")
        say("writing the file")
        coco_files.write_truth(
            path, num_images=settings.num_images, num_objects=settings.num_objects, polygons=settings.polygons
        )
        images.mkdir()
        (images / f"{0:012d}.jpg").touch()  # with no image at all, the folder would be refused as the wrong one
        return contest.compare(
            "a file read, and every box, label and crowd flag to be equal",
            dataclasses.asdict(settings) | {"mega_bytes": path.stat().st_size // 10**6},
            lambda way: contest.run_child(__spec__.name, [way, str(path), str(images)]),
            ways=WAYS,
            reference="pycocotools",
            rounds=settings.rounds,
            say=say,
        )


def run(way: str, path: Path, images: Path) -> Measured:
    """One way, in this process."""
    if way == "detector":
        return contest.measured(lambda: coco.read(path, images), _of_columns)
    return contest.measured(lambda: _by_pycocotools(path), _of_index)


def _by_pycocotools(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def _of_columns(columns: Columns) -> dict[str, Any]:
    return _found(
        columns.image_ids, np.diff(columns.offsets), columns.boxes, columns.labels, columns.is_crowd.astype(np.bool_)
    )


def _of_index(index: COCO) -> dict[str, Any]:
    """The same of pycocotools' records: images in the order of the file, classes by id, boxes as corners."""
    ids = [image["id"] for image in index.dataset["images"]]
    of_each = [index.imgToAnns[image_id] for image_id in ids]
    objects = [one for some in of_each for one in some]
    xywh = np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4)
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return _found(
        np.array(ids, np.int64),
        np.array([len(some) for some in of_each], np.int64),
        corners.astype(np.float32),
        np.searchsorted(np.array(sorted(index.cats), np.int64), np.array([one["category_id"] for one in objects])),
        np.array([one["iscrowd"] for one in objects], np.bool_),
    )


def _found(*columns: NDArray[Any]) -> dict[str, Any]:
    digests = [hashlib.sha256(np.ascontiguousarray(column).tobytes()).hexdigest()[:16] for column in columns]
    return {"num_images": len(columns[0]), "num_objects": len(columns[2]), "digests": " ".join(digests)}


if __name__ == "__main__":
    contest.print_measured(run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
