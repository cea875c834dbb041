"""Write a data set of COCO's size and layout, to try a recipe for COCO without COCO.

    python tools/experiments/coco_size.py /tmp/coco-size

118,287 pictures with 860,001 boxes to learn from and 5,000 with 36,781 to validate on, of 80 classes, as
annotations/instances_train2017.json, train2017/ and so on. All pictures are 640x480, and sixteen generated files under
hard links. It takes 140 MB and half a minute.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from detector.benchmark import coco_files, pictures

SPLITS = {"train2017": (118_287, 860_001), "val2017": (5_000, 36_781)}
FILES = 16
SIZE_HW = (480, 640)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True)
    files = write_files(out / "files")
    (out / "annotations").mkdir()
    for seed, (split, (num_images, num_objects)) in enumerate(SPLITS.items()):
        annotations = out / "annotations" / f"instances_{split}.json"
        coco_files.write_truth(annotations, num_images=num_images, num_objects=num_objects, seed=seed)
        (out / split).mkdir()
        for row in range(num_images):
            (out / split / f"{row:012d}.jpg").hardlink_to(files[row % len(files)])


def write_files(folder: Path) -> list[Path]:
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(FILES)]
    for path in paths:
        cv2.imwrite(str(path), pictures.picture(rng, SIZE_HW), [cv2.IMWRITE_JPEG_QUALITY, pictures.QUALITY])
    return paths


if __name__ == "__main__":
    main()
