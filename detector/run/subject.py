"""One trained model with its detections on a split: what `report` and `compare` look at."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.analysis import analyse
from detector.analysis.analyse import Analysis
from detector.data import coco, layout
from detector.data.columns import Columns
from detector.data.layout import SplitFiles
from detector.errors import CheckpointError, ConfigError, DataError
from detector.evaluate import coco as coco_scores
from detector.evaluate.results import Results
from detector.run import scoring, thresholds
from detector.run.data_paths import DataPaths
from detector.train import run_status
from detector.train.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A run folder, or a model file alone."""

    given: Path
    model: Path
    run: Path | None

    @classmethod
    def find(cls, given: Path) -> "Place":
        """Locate the model.

        Raises:
            CheckpointError: there is none.
        """
        if given.is_file():
            run = given.parent if (given.parent / "data.json").is_file() else None
            return cls(given=given, model=given, run=run)
        folder = RunFolder(path=given)
        for model in (folder.best, folder.last):
            if model.is_file():
                return cls(given=given, model=model, run=given)
        what = "holds no best.safetensors" if given.is_dir() else "no such run folder or model file"
        raise CheckpointError(f"{given}: {what}; {run_status.advice(given)}, or a model file")

    def fingerprints(self) -> Mapping[str, Mapping[str, Any]]:
        """The splits that the run saw; none for a model alone."""
        if self.run is None:
            return {}
        try:
            content: Any = json.loads((self.run / "data.json").read_text(encoding="utf-8"))
            return content["splits"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def split(self, data: DataPaths, name: str) -> SplitFiles:
        """The files of a split: of the data that were named, else of those that the run saw.

        Raises:
            ConfigError: neither is there.
        """
        if data.folder is not None or data.annotations is not None:
            return data.split(name, advice=layout.FOR_EVAL)
        seen = self.fingerprints().get(name)
        if seen is None:
            raise ConfigError(f"{self.given}: the run saw no {name} data; name a data folder, or another --split")
        annotations = Path(str(seen["annotations"]))
        if not annotations.is_file():
            raise ConfigError(f"{annotations}: the {name} data of the run are no longer there; name the data folder")
        return layout.explicit(annotations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    place: Place
    analysis: Analysis
    paths: Mapping[int, Path]
    """Of images, by row of the truth."""
    columns: Columns
    reused: bool
    """Whether saved results were read in place of running the model."""


def look(
    place: Place,
    files: SplitFiles,
    split: str,
    *,
    device: str,
    say: Callable[[str], None] = lambda _: None,
    as_predicted: bool = False,
) -> Subject:
    """Analyse the model on a split. Results that `eval` left are taken where they still hold; else it is run.

    Args:
        place: The model.
        files: The data.
        split: Its name.
        device: Where the model runs.
        say: Told what is done.
        as_predicted: Judge at the thresholds in the model file, where it holds some, instead of those of best F1.
    """
    saved = scoring.saved_results(place.model, split, files.annotations)
    if saved is None:
        say(f"running {place.model} on {files.annotations}")
        data = DataPaths(annotations=files.annotations, images=files.images)
        out = place.model.parent / f"eval-{split}"
        results_path = scoring.evaluate([place.model], data, split=split, out=out, device=device).results_path
    else:
        say(f"reading {saved}")
        results_path = saved
    columns = coco.read(files.annotations, files.images)
    truth = coco_scores.read_truth(files.annotations)
    rows = {int(image_id): row for row, image_id in enumerate(columns.image_ids.tolist())}
    paths = {
        place_in_truth: columns.path(rows[image_id]) for place_in_truth, image_id in enumerate(truth.image_ids.tolist())
    }
    given = thresholds.stored_in(place.model, truth) if as_predicted else None
    return Subject(
        place=place,
        analysis=analyse.analyse(truth, Results.read(results_path), thresholds=given),
        paths=paths,
        columns=columns,
        reused=saved is not None,
    )


def splits_of(place: Place, known: Mapping[str, Columns]) -> dict[str, Columns]:
    """The data of the run that can still be read, and those that are known."""
    made: dict[str, Columns] = {}
    for name in place.fingerprints():
        try:
            if name not in known:
                files = place.split(DataPaths(), name)
                made[name] = coco.read(files.annotations, files.images)
        except (ConfigError, DataError):
            continue
    return {**made, **known}
