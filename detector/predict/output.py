"""Predict many images into a folder: annotated pictures and one `predictions.json`.

Of several processes each looks at some of the batches, and the first writes. A batch has the same images for any number
of processes, so that the results are the same to the last bit.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector import files
from detector.data import decode
from detector.errors import ConfigError, DataError
from detector.geometry import boxes as box_math
from detector.out_folder import OutFolder
from detector.predict import draw
from detector.predict.predictor import Detector
from detector.types import Detections

T = TypeVar("T")

BATCH_SIZE = 8  # images the model sees at once
_PREDICTIONS = "predictions.json"
_JPEG_SIDE = 65_500  # the longest that libjpeg writes


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOutcome:
    """What a run over many images left behind."""

    folder: Path
    num_images: int  # that could be read
    num_detections: int
    unreadable: tuple[str, ...]  # why, for each image that could not; the file stands first
    is_first: bool = True  # whether this is the process of several that wrote it


class Crew(Protocol):
    """The processes that look at the images together."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    def to_first(self, value: T) -> list[T]:
        """What each process has, in the order of ranks, for the first; nothing for the others."""
        ...


class _Alone:
    rank, size = 0, 1

    def to_first(self, value: T) -> list[T]:
        return [value]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What came of one image."""

    index: int  # in the given sequence
    picture: bytes  # a JPEG
    records: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Looked:
    """What came of one batch; of none, where a process has no more of them than another."""

    seen: tuple[_Seen, ...] = ()
    unreadable: tuple[str, ...] = ()


def write(
    detector: Detector,
    images: Sequence[Path],
    *,
    folder: Path | None = None,
    score: float | None = None,
    batch_size: int = BATCH_SIZE,
    image_ids: Mapping[Path, int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    crew: Crew | None = None,
) -> PredictOutcome:
    """Write an annotated JPEG of each image and `predictions.json`.

    The JSON is in COCO's results form with names: a list of {image_id, file_name, category_id, category_name, bbox
    [x, y, width, height], score}, with the probability of every class by name where the model is a localizer. It is
    written last and whole. One batch of pixels is in memory at a time.

    Args:
        detector: The model.
        images: Files, as `sources.find_images` gives them.
        folder: Empty, of an earlier run, whose files are removed, or not there yet; None takes the next free
            `runs/predict-NNN`.
        score: Least score of what is drawn and written; None leaves it to the model.
        batch_size: Images the model sees at once.
        image_ids: Id of each image; without it they count from 1 in the given order.
        progress: Called after each image with how many are done and how many there are.
        crew: This process, the first, and those that `assist` it.

    Raises:
        ConfigError: the folder holds other files, or cannot be written.
        DataError: no image could be read.
    """
    target = _next_free(Path("runs")) if folder is None else folder
    try:
        ids = _image_ids(images, image_ids)
        _refuse_sources(target, images)
        with OutFolder.claim(target, "predict") as own:
            own.require_free([*_picture_names(images), _PREDICTIONS])
            return _write(detector, images, own, score, batch_size, ids, progress, crew or _Alone())
    except OSError as error:
        raise ConfigError(files.no_output(target, error)) from error


def assist(
    detector: Detector, images: Sequence[Path], crew: Crew, *, score: float | None = None, batch_size: int = BATCH_SIZE
) -> None:
    """Look at this process's batches while the first of the crew, with the same images, is in `write`."""
    for looked in _looked(detector, images, score, batch_size, crew):
        crew.to_first(looked)


def _write(
    detector: Detector,
    images: Sequence[Path],
    own: OutFolder,
    score: float | None,
    batch_size: int,
    ids: Sequence[int],
    progress: Callable[[int, int], None] | None,
    crew: Crew,
) -> PredictOutcome:
    file_names = _relative_names(images)
    picture_names = _picture_names(images)
    unreadable: list[str] = []
    records: list[dict[str, Any]] = []
    num_read = 0
    for mine in _looked(detector, images, score, batch_size, crew):
        for looked in crew.to_first(mine):
            unreadable += looked.unreadable
            for seen in looked.seen:
                if num_read == 0:
                    own.clear()  # not before something is there in its place
                i = seen.index
                own.file(picture_names[i]).write_bytes(seen.picture)
                records += [{"image_id": ids[i], "file_name": file_names[i], **record} for record in seen.records]
                num_read += 1
                if progress is not None:
                    progress(num_read + len(unreadable), len(images))
    if num_read == 0:
        raise DataError(f"{unreadable[0] if unreadable else 'no image given'} (0 of {len(images)} images were read)")
    _write_json(own.file(_PREDICTIONS), records)
    return PredictOutcome(
        folder=own.path, num_images=num_read, num_detections=len(records), unreadable=tuple(unreadable)
    )


def _looked(
    detector: Detector, images: Sequence[Path], score: float | None, batch_size: int, crew: Crew
) -> Iterator[_Looked]:
    """What this process finds in its batches, as many times as every other."""
    for start in range(0, len(images), batch_size * crew.size):
        first = start + crew.rank * batch_size
        yield _look(detector, range(first, min(first + batch_size, len(images))), images, score)


def _look(detector: Detector, indices: Sequence[int], images: Sequence[Path], score: float | None) -> _Looked:
    read: list[tuple[int, NDArray[np.uint8]]] = []
    unreadable: list[str] = []
    for index in indices:
        try:
            read.append((index, decode.read_image(images[index])))
        except DataError as error:
            unreadable.append(str(error))
    found = detector.predict_many((pixels for _, pixels in read), score=score, batch_size=max(1, len(indices)))
    return _Looked(
        seen=tuple(
            _Seen(index=index, picture=_jpeg(draw.draw(pixels, of_one)), records=_records(of_one, detector))
            for (index, pixels), of_one in zip(read, found, strict=True)
        ),
        unreadable=tuple(unreadable),
    )


def _records(found: Detections, detector: Detector) -> list[dict[str, Any]]:
    label_map = detector.label_map
    boxes = cast("list[list[float]]", box_math.xyxy_to_xywh(found.boxes.double()).tolist())
    scores = cast("list[float]", found.scores.double().tolist())
    labels = cast("list[int]", found.labels.tolist())
    records: list[dict[str, Any]] = [
        {
            "category_id": label_map.category_ids[label],
            "category_name": label_map.names[label],
            "bbox": box,
            "score": score,
        }
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    return _with_probabilities(records, found, detector.names) if detector.one_of_classes else records


def _with_probabilities(
    records: Sequence[Mapping[str, Any]], found: Detections, names: Sequence[str]
) -> list[dict[str, Any]]:
    assert found.class_scores is not None
    rows = cast("list[list[float]]", found.class_scores.double().tolist())
    return [
        {**record, "probabilities": dict(zip(names, row, strict=True))}
        for record, row in zip(records, rows, strict=True)
    ]


def _image_ids(images: Sequence[Path], given: Mapping[Path, int] | None) -> list[int]:
    if given is None:
        return list(range(1, len(images) + 1))
    unknown = [path for path in images if path not in given]
    if unknown:
        raise DataError(f"{unknown[0]}: has no image id ({len(unknown)} such images); add it to the COCO file")
    return [given[path] for path in images]


def _relative_names(images: Sequence[Path]) -> list[str]:
    """File names relative to the folder all images share, as `file_name` in COCO; they stay distinct."""
    folders = [path.parent.resolve() for path in images]
    if not folders:
        return []
    shared = os.path.commonpath(folders)
    return [(folder / path.name).relative_to(shared).as_posix() for folder, path in zip(folders, images, strict=True)]


def _next_free(parent: Path) -> Path:
    number = 1
    while (folder := parent / f"predict-{number:03}").exists():
        number += 1
    return folder


def _refuse_sources(folder: Path, images: Sequence[Path]) -> None:
    """Images to be predicted do not lie where results go, not even behind a link."""
    place = folder.resolve()
    for path in images:
        if place in {path.parent.resolve(), path.resolve().parent}:
            raise ConfigError(f"{folder}: holds {path.name}, which is to be predicted; choose another --out")


def _picture_names(images: Sequence[Path]) -> list[str]:
    """A JPEG name for each image; equal stems get -2, -3, ... in order. Compared without case, as some disks do."""
    taken: set[str] = set()
    names: list[str] = []
    for path in images:
        number, name = 1, f"{path.stem}.jpg"
        while name.casefold() in taken:
            number += 1
            name = f"{path.stem}-{number}.jpg"
        taken.add(name.casefold())
        names.append(name)
    return names


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(pixels)
    picture.thumbnail((_JPEG_SIDE, _JPEG_SIDE))  # leaves what is smaller as it is
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=92, subsampling=0)
    return content.getvalue()


def _write_json(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in records)
    files.write_text(path, f"[\n{lines}\n]\n")
