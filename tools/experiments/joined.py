"""Splits of a data set as one COCO file.

To learn from, where nothing is left to be chosen on the validation split:

    python tools/experiments/joined.py data/blood-cells train val --out runs/train-and-val.json
    detector train --train-json runs/train-and-val.json --images data/blood-cells/images

The file that is written must not be there yet.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from detector.data import layout
from detector.errors import DataError, DetectorError

Coco = dict[str, list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with splits over one folder of images")
    parser.add_argument("splits", nargs="+", help="train, val, test")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        whole, images = gather(options.data, options.splits)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("x", encoding="utf-8") as file:
            json.dump(whole, file)
    except (DetectorError, OSError) as error:
        sys.exit(f"error: {error}")
    counts = f"{len(whole['images'])} images, {len(whole['annotations'])} annotations"
    sys.stdout.write(f"{options.out}: {counts}; the images are in {images}\n")


def gather(folder: Path, splits: Sequence[str]) -> tuple[Coco, Path]:
    """The splits as one, numbered anew in the order of the file names, and the folder of their images.

    Raises:
        DataError: a split is not there, or they do not go together.
    """
    whole: Coco = {"images": [], "annotations": [], "categories": []}
    roots: set[Path] = set()
    for split in splits:
        files = layout.find(folder, split)
        roots.add(files.images)
        data = cast("Coco", json.loads(files.annotations.read_text(encoding="utf-8")))
        number = {image["id"]: f"{split}-{image['id']}" for image in data["images"]}
        whole["images"] += [image | {"id": number[image["id"]]} for image in data["images"]]
        whole["annotations"] += [one | {"image_id": number[one["image_id"]]} for one in data["annotations"]]
        whole["categories"] = whole["categories"] or data["categories"]
        if whole["categories"] != data["categories"]:
            raise DataError(f"{files.annotations}: has other categories than the splits before it")
    if len(roots) != 1:
        raise DataError(f"{folder}: its splits have {len(roots)} image folders, wanted is one; put the images together")
    repeated = [name for name, count in Counter(one["file_name"] for one in whole["images"]).items() if count > 1]
    if repeated:
        raise DataError(f"{folder}: {len(repeated)} pictures are in several of the splits, such as {repeated[0]}")
    whole["images"].sort(key=lambda image: image["file_name"])
    order = {image["id"]: index for index, image in enumerate(whole["images"], start=1)}
    for image in whole["images"]:
        image["id"] = order[image["id"]]
    for index, one in enumerate(whole["annotations"], start=1):
        one.update(id=index, image_id=order[one["image_id"]])
    return whole, roots.pop()


if __name__ == "__main__":
    main()
