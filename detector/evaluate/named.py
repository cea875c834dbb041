"""Results that name their images, as those of `detector predict`, whose own image ids count from 1."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from detector.data import coco as coco_file
from detector.data import records
from detector.data.records import Table
from detector.errors import DataError
from detector.evaluate.results import Results


def read(predictions: Path, ground_truth: Path) -> tuple[Results, tuple[str, ...]]:
    """Results with the image ids of the ground truth, and a note where they had others.

    Raises:
        DataError: as `Results.read`, or an image is named that the ground truth does not list, or some records name
            another image than that of their id, and others none.
    """
    results, names = Results.read_named(predictions)
    if not any(name is not None for name in names):
        return results, ()
    known = _Known.of(coco_file.read_tables(ground_truth).images)
    ids: list[int] = results.image_ids.tolist()
    places = [number if name is None else known.find(name) for name, number in zip(names, ids, strict=True)]
    if None in places:
        record = places.index(None)
        raise DataError(
            f"{predictions}: record {record}: file_name {names[record]!r} is not in {ground_truth}, or not there once; "
            "score against the file of these images, or remove file_name to go by image_id"
        )
    image_ids = np.array(places, np.int64)
    other = np.flatnonzero(image_ids != results.image_ids)
    if not other.size:
        return results, ()
    if None in names:
        record = int(other[0])
        raise DataError(
            f"{predictions}: record {names.index(None)}: has no file_name, but record {record} has another image_id "
            f"({ids[record]}) than the image it names, {names[record]!r}; give every record a file_name, or none"
        )
    note = f"{other.size} detections have another image_id than the image they name; matched by file name"
    return dataclasses.replace(results, image_ids=image_ids), (note,)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """Image ids by file name, whole and without folders; None where several share one."""

    whole: Mapping[str, int | None]
    last: Mapping[str, int | None]

    @classmethod
    def of(cls, images: Table) -> "_Known":
        ids: list[int] = records.whole_numbers(images, "id")[0].tolist()
        names = [name.replace("\\", "/") for name in records.texts(images, "file_name")]
        return cls(whole=_once(names, ids), last=_once([PurePosixPath(name).name for name in names], ids))

    def find(self, name: str) -> int | None:
        plain = name.replace("\\", "/")
        return self.whole[plain] if plain in self.whole else self.last.get(PurePosixPath(plain).name)


def _once(names: Sequence[str], ids: Sequence[int]) -> dict[str, int | None]:
    made: dict[str, int | None] = {}
    for name, number in zip(names, ids, strict=True):
        made[name] = None if name in made else number
    return made
