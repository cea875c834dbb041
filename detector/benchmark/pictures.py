"""Generated photographs, as far as a decoder can tell: large soft shapes, ever finer and fainter ones, and noise."""

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

QUALITY = 90
_NOISE = 4.0  # levels; with it a 640x480 JPEG takes about 80 kB
_OBJECTS = 5


def write(folder: Path, *, num_images: int, size_hw: tuple[int, int], seed: int = 0) -> tuple[Path, Path]:
    """A COCO file with boxes anywhere, and its folder of JPEG files."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    images = folder / "images"
    images.mkdir(parents=True)
    boxes: list[dict[str, object]] = []
    for row in range(num_images):
        cv2.imwrite(str(images / f"{row}.jpg"), picture(rng, size_hw), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        for _ in range(_OBJECTS):
            x, y = rng.integers(width * 3 // 4), rng.integers(height * 3 // 4)
            box = [int(x), int(y), int(rng.integers(8, width // 4)), int(rng.integers(8, height // 4))]
            boxes.append(
                {"id": len(boxes) + 1, "image_id": row + 1, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
            )
    tree = {
        "images": [
            {"id": row + 1, "file_name": f"{row}.jpg", "width": width, "height": height} for row in range(num_images)
        ],
        "annotations": [{**box, "iscrowd": 0} for box in boxes],
        "categories": [{"id": 1, "name": "thing"}],
    }
    annotations = folder / "train.json"
    annotations.write_text(json.dumps(tree), encoding="utf-8")
    return annotations, images


def picture(rng: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size_hw
    sum_of_octaves = np.full((height, width, 3), 118, np.float32)
    cells, strength = 4, 60.0
    while cells < max(size_hw):
        coarse_hw = (max(2, height * cells // max(size_hw)), max(2, width * cells // max(size_hw)))
        coarse = rng.standard_normal((*coarse_hw, 3), np.float32)
        sum_of_octaves += strength * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cells, strength = 2 * cells, 0.55 * strength
    sum_of_octaves += _NOISE * rng.standard_normal((height, width, 1), np.float32)
    return np.clip(sum_of_octaves, 0, 255).astype(np.uint8)
