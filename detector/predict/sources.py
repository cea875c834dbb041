"""From what the user names to image files: files, folders and glob patterns."""

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from detector.errors import DataError

SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def find_images(sources: Sequence[str]) -> tuple[Path, ...]:
    """Image files in the order of the sources, sorted within each, every file once.

    A file named outright is taken whatever its suffix; in folders and patterns only image suffixes count. A folder is
    not searched for folders inside; a pattern with `**` is.

    Raises:
        DataError: a source does not exist or has no image.
    """
    if not sources:
        raise DataError("no image given; name files, a folder or a pattern such as 'photos/**/*.jpg'")
    found: dict[Path, Path] = {}
    for source in sources:
        for path in _expand(source):
            # Two spellings of one place are one file; two links to one file stay two.
            found.setdefault(path.parent.resolve() / path.name, path)
    return tuple(found.values())


def _expand(source: str) -> list[Path]:
    if not source.strip() or "\0" in source:
        raise DataError(f"{source!r} is no path; name a file, a folder or a pattern")
    path = Path(source)
    if path.is_dir():
        return _images_among(path.iterdir(), f"{source}: the folder", "give another, or '**/*.jpg' to look deeper")
    if path.is_file():
        return [path]
    if path.exists():
        raise DataError(f"{source}: is neither a file nor a folder; save the image to a file first")
    if glob.has_magic(source):
        matches = map(Path, glob.iglob(source, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        return _images_among(matches, f"{source}: the pattern", "check it; quote it so that the shell leaves it alone")
    raise DataError(f"{source}: no such file or folder; check the path")


def _images_among(paths: Iterable[Path], what: str, cure: str) -> list[Path]:
    try:
        images = [path for path in paths if _looks_like_image(path)]
    except OSError as error:
        raise DataError(f"{what} cannot be read ({error.strerror}); check its permissions") from error
    if not images:
        raise DataError(f"{what} has no image ({', '.join(sorted(SUFFIXES))}); {cure}")
    return sorted(images)


def _looks_like_image(path: Path) -> bool:
    """Hidden files are passed over: macOS leaves `._name.jpg` beside each image it copies to a foreign disk."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
