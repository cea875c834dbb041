"""Folders that a command writes into again and again without touching what it has not written itself."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

from detector import files
from detector.errors import ConfigError


class OutFolder:
    """A folder with a marker inside: a hidden file that lists, one JSON string a line, the files the command wrote."""

    def __init__(self, path: Path, marker: Path, names: Iterable[str], *, is_new: bool) -> None:
        self.path = path
        self._marker = marker
        self._names = list(names)
        self._is_new = is_new

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """After a failure, a folder that was made for it and is still empty goes again."""
        if error is not None and self._is_new and not self._names:
            with suppress(OSError):
                self._marker.unlink()
                self.path.rmdir()

    @classmethod
    def claim(cls, path: Path, command: Literal["eval", "predict"]) -> Self:
        """Make the folder, or take an empty one or one of an earlier run; nothing but the marker changes in it.

        Raises:
            ConfigError: it holds the files of somebody else, or cannot be written.
        """
        marker = path / f".detector-{command}"
        try:
            is_ours = marker.is_file()
            if not is_ours and path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise ConfigError(
                    f"{path}: is not an empty folder, nor one of an earlier `detector {command}`; "
                    "name another with --out, or empty it"
                )
            is_new = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            claimed = cls(path, marker, _listed(marker) if is_ours else (), is_new=is_new)
            claimed._write_marker()  # an earlier one as well: it shows that the folder can be written
        except OSError as error:
            raise ConfigError(files.no_output(path, error)) from error
        return claimed

    def clear(self) -> None:
        """Remove what the earlier run wrote."""
        for name in self._names:
            file = self.path / name
            # Whoever edits the marker cannot make it reach out of the folder.
            if Path(name).name == name and (file.is_file() or file.is_symlink()):
                file.unlink()
        self._names.clear()
        self._write_marker()

    def require_free(self, names: Iterable[str]) -> None:
        """Refuse to write over a file that somebody put between ours.

        Raises:
            ConfigError: a file of one of these names is there.
        """
        for name in names:
            file = self.path / name
            if name not in self._names and (file.exists() or file.is_symlink()):
                raise ConfigError(f"{file}: stands where a result is to be written; move it, or choose another --out")

    def file(self, name: str) -> Path:
        """Path of a file that is about to be written, and is ours from now on."""
        with self._marker.open("a", encoding="utf-8") as marker:
            marker.write(json.dumps(name) + "\n")
        self._names.append(name)
        return self.path / name

    def _write_marker(self) -> None:
        files.write_text(self._marker, "".join(json.dumps(name) + "\n" for name in self._names))


def _listed(marker: Path) -> list[str]:
    """The names in a marker; a line that a crash cut short is passed over."""
    names: list[str] = []
    for line in marker.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            name = cast("object", json.loads(line))
        except ValueError:
            continue
        if isinstance(name, str) and "\0" not in name:
            names.append(name)
    return names
