"""Where the data of a command are."""

from dataclasses import dataclass
from pathlib import Path

from detector.data import layout
from detector.data.layout import SplitFiles
from detector.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPaths:
    """Where a data set is: a folder in a known layout, or its files one by one."""

    folder: Path | None = None
    train_json: Path | None = None
    val_json: Path | None = None
    annotations: Path | None = None
    """Of whichever split is asked for."""
    images: Path | None = None

    def split(self, name: str, *, advice: str = layout.FOR_TRAIN) -> SplitFiles:
        """Files of one split; an error message gives the advice.

        Raises:
            DataError: the split cannot be found.
        """
        explicit = self._explicit(name)
        if explicit is not None:
            return layout.explicit(explicit, self.images)
        if self.folder is None:
            raise ConfigError(f"no {name} data: name a data folder, or {advice}")
        return layout.find(self.folder, name, advice=advice)

    def has(self, name: str) -> bool:
        return self._explicit(name) is not None or (
            self.folder is not None and name in layout.available_splits(self.folder)
        )

    def _explicit(self, name: str) -> Path | None:
        return {"train": self.train_json, "val": self.val_json}.get(name) or self.annotations
