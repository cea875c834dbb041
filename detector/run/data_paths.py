"""Where the data of a command are."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from detector.data import layout
from detector.data.layout import SplitFiles
from detector.errors import ConfigError
from detector.train import run_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPaths:
    """Where a data set is: a folder in a known layout, or its files one by one."""

    folder: Path | None = None
    train_json: Path | None = None
    val_json: Path | None = None
    annotations: Path | None = None
    """Of whichever split is asked for."""
    images: Path | None = None
    seen: Mapping[str, SplitFiles] | None = None
    """By split, those of a run that is gone on with."""

    @classmethod
    def of_run(cls, run: Path, *, val_json: Path | None = None, images: Path | None = None) -> Self:
        """Those that a run learns on, as it has noted them, but for a validation split that is named anew.

        Raises:
            ConfigError: there is no such run, it has noted nothing, or they are gone.
        """
        if run_folder.existing(run) is None:
            raise ConfigError(f"{run}: holds no run to resume; name DATA, and leave --resume out, to start one")
        cure = f"name the data: detector train DATA --resume --out {run}"
        file = run / "data.json"
        try:
            content: Any = json.loads(file.read_text(encoding="utf-8"))
            noted: Mapping[str, Mapping[str, str]] = content["splits"]
            seen = {name: _noted(one) for name, one in noted.items() if name != "val" or val_json is None}
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror}), so no data are known; {cure}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{file}: does not say where the data are; {cure}") from error
        for name, files in seen.items():
            if not files.annotations.is_file() or not files.images.is_dir():
                gone = files.images if files.annotations.is_file() else files.annotations
                raise ConfigError(f"{gone}: the {name} data of {run} are no longer there; bring them back, or {cure}")
        return cls(seen=seen, val_json=val_json, images=images)

    def split(self, name: str, *, advice: str = layout.FOR_TRAIN) -> SplitFiles:
        """Files of one split; an error message gives the advice.

        Raises:
            DataError: the split cannot be found.
        """
        if self.seen is not None and name in self.seen:
            return self.seen[name]
        explicit = self._explicit(name)
        if explicit is not None:
            return layout.explicit(explicit, self.images)
        if self.folder is None:
            raise ConfigError(f"no {name} data: name a data folder, or {advice}")
        return layout.find(self.folder, name, advice=advice)

    def has(self, name: str) -> bool:
        return (
            (self.seen is not None and name in self.seen)
            or self._explicit(name) is not None
            or (self.folder is not None and name in layout.available_splits(self.folder))
        )

    def _explicit(self, name: str) -> Path | None:
        return {"train": self.train_json, "val": self.val_json}.get(name) or self.annotations


def _noted(split: Mapping[str, str]) -> SplitFiles:
    annotations, images = Path(split["annotations"]), split.get("image_folder")
    return layout.explicit(annotations) if images is None else SplitFiles(annotations=annotations, images=Path(images))
