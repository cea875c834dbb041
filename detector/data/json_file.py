"""Read a JSON file that a stranger made, or say what is wrong with it."""

import gc
import json
import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from detector.errors import DataError

MAX_BYTES = 4 * 1024**3
# Only such a number can be too large for a float; without one the fast parser is safe.
_HUGE_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")
_TABLES = ("images", "annotations", "categories")


class NotFiniteError(DataError):
    """The file holds a number that is not finite."""


class NotFinite(float):
    """Such a number, which is shown as the file has it."""

    def __new__(cls, literal: str) -> Self:
        made = super().__new__(cls, literal)
        made.literal = literal
        return made

    literal: str

    def __repr__(self) -> str:
        return self.literal


def holds_not_finite(value: Any) -> bool:
    """Whether a `NotFinite` is in it, however deep."""
    match value:
        case NotFinite():
            return True
        case list():
            return any(map(holds_not_finite, cast("list[Any]", value)))
        case dict():
            return any(map(holds_not_finite, cast("dict[str, Any]", value).values()))
        case _:
            return False


def read(path: Path, *, is_finite: bool = True) -> Any:
    """Parse strictly: UTF-8 with or without a byte-order mark, finite numbers, no table named twice.

    Args:
        path: The file.
        is_finite: Whether numbers must be; else those that are not come back as `NotFinite`.

    Raises:
        DataError: the file cannot be read or is not such JSON.
    """
    data = _contents(path)
    _refuse_other_formats(path, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start}); save it as UTF-8"
        ) from error
    careful = _HUGE_EXPONENT.search(data) is not None or any(data.count(b'"%s"' % t.encode()) > 1 for t in _TABLES)
    with collector_paused():
        return _parse(_Strict(path, is_finite), text, careful=careful)


def _contents(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: is a directory; name the JSON file in it")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DataError(f"{path}: is not a regular file; name a JSON file")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path}: {size} bytes are more than the limit of {MAX_BYTES}; split the data set")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _refuse_other_formats(path: Path, data: bytes) -> None:
    if not data.strip():
        raise DataError(f"{path}: is empty; export or copy it again")
    if data.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: is gzip-compressed; decompress it with gunzip")
    if data.startswith(b"PK\x03\x04"):
        raise DataError(f"{path}: is a zip archive; unpack it")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise DataError(f"{path}: is UTF-16 or UTF-32; save it as UTF-8")
    if data.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: is a git-lfs pointer, not the file itself; run `git lfs pull`")


def _parse(strict: "_Strict", text: str, *, careful: bool) -> Any:
    path = strict.path
    try:
        if careful:
            return json.loads(
                text,
                parse_constant=strict.other_than_finite,
                parse_float=strict.finite,
                object_pairs_hook=strict.unique,
            )
        return json.loads(text, parse_constant=strict.other_than_finite)
    except json.JSONDecodeError as error:
        raise DataError(_syntax_error(path, text, error)) from error
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply to be a COCO file; export it again") from error
    except DataError:
        raise
    except ValueError as error:  # the interpreter's limit on the digits of an integer
        raise DataError(f"{path}: holds a number with thousands of digits; correct its record") from error


@contextmanager
def collector_paused() -> Generator[None]:
    """Else the garbage collector walks millions of new records over and over, and parsing takes twice as long."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(frozen=True, slots=True)
class _Strict:
    """What the parser shall refuse although Python's would take it."""

    path: Path
    is_finite: bool

    def other_than_finite(self, literal: str) -> NotFinite:
        if not self.is_finite:
            return NotFinite(literal)
        raise NotFiniteError(
            f"{self.path}: holds the number {literal}, which is not finite; correct or remove its record"
        )

    def finite(self, literal: str) -> float:
        value = float(literal)
        return self.other_than_finite(literal) if math.isinf(value) else value

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _ in pairs]
            for table in _TABLES:
                if keys.count(table) > 1:
                    raise DataError(f"{self.path}: the key {table!r} stands twice; merge the two")
        return made


def _syntax_error(path: Path, text: str, error: json.JSONDecodeError) -> str:
    offset = len(text[: error.pos].encode(errors="surrogatepass"))
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"{path}: ends in the middle, at byte {offset}: {error.msg}; the file was cut, copy or export it again"
    place = f"line {error.lineno}, column {error.colno}, byte {offset}"
    return f"{path}: is not valid JSON at {place}: {error.msg}; correct it there or export it again"
