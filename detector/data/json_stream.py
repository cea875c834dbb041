"""A JSON file of many records, read through a window: neither its text nor its records are ever in memory as a whole.

Where a piece of an array may be cut off is guessed from its punctuation, and proved by parsing the piece: a text that
is valid JSON between brackets consists of whole records, whatever braces stand in its strings.
"""

import codecs
import json
import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NoReturn

WINDOW_BYTES = 2 * 1024**2
_LONGEST_RECORD = 16 * WINDOW_BYTES
_SMALL_VALUE = 64 * 1024
_TRIES = 100
_SPACES: Final = b" \t\r\n"
_SPACE = re.compile(rb"[ \t\r\n]*")
_KEY = re.compile(rb'"([A-Za-z0-9_ -]*)"[ \t\r\n]*:')
_END = re.compile(rb"\}[ \t\r\n]*\]")


class Declined(Exception):  # noqa: N818 - no fault of the file: another reader takes it
    """The file is not as simple as it must be for this reader."""


class Window:
    """A part of the file, and where in it the reading stands."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._data = b""
        self._at = 0
        self._ended = False
        self._fill()
        if self._data.startswith(codecs.BOM_UTF8):
            self._at = len(codecs.BOM_UTF8)

    def next_byte(self) -> bytes:
        """What follows white space, not yet taken; nothing at the end of the file."""
        while True:
            space = _SPACE.match(self._data, self._at)
            assert space is not None, "the pattern matches the empty text"
            self._at = space.end()
            if self._at < len(self._data) or self._ended:
                return self._data[self._at : self._at + 1]
            self._fill()

    def take(self, wanted: bytes) -> None:
        if self.next_byte() != wanted:
            raise Declined
        self._at += 1

    def took(self, wanted: bytes) -> bool:
        """Take it if it is there."""
        found = self.next_byte() == wanted
        self._at += found
        return found

    def key(self) -> str:
        """The name before a colon."""
        self.next_byte()
        self._see(_SMALL_VALUE)
        match = _KEY.match(self._data, self._at)
        if match is None:
            raise Declined
        self._at = match.end()
        return match[1].decode("ascii")

    def skip_small_value(self) -> None:
        self.next_byte()
        self._see(_SMALL_VALUE)
        text = self._data[self._at : self._at + _SMALL_VALUE].decode("utf-8", "surrogateescape")
        _, end = _STRICT.raw_decode(text)
        self._at += len(text[:end].encode("utf-8", "surrogateescape"))

    def pieces(self) -> Iterator[bytes]:
        """The array that stands here, taken as shorter arrays; the consumer must find each to be valid JSON."""
        self.take(b"[")
        if self.took(b"]"):
            return
        while True:
            last = _END.search(self._data, self._at)
            if last is not None:
                yield b"[" + self._data[self._at : last.start()] + b"}]"
                self._at = last.end()
                return
            cut = self._cut()
            if cut is not None:
                yield b"[" + self._data[self._at : cut[0]] + b"]"
                self._at = cut[1]
            if self._ended or len(self._data) - self._at > _LONGEST_RECORD:
                raise Declined
            self._fill()

    def _cut(self) -> tuple[int, int] | None:
        """Where the last record in view but one seems to end, and the last to begin."""
        start = len(self._data)
        for _ in range(_TRIES):
            start = self._data.rfind(b"{", self._at + 1, start)
            if start < 0:
                return None
            before = self._data[max(self._at, start - 64) : start].rstrip(_SPACES)
            if before.endswith(b","):
                record = before[:-1].rstrip(_SPACES)
                if record.endswith(b"}"):
                    return max(self._at, start - 64) + len(record), start
        return None

    def _see(self, count: int) -> None:
        while len(self._data) - self._at < count and not self._ended:
            self._fill()

    def _fill(self) -> None:
        chunk = self._file.read(WINDOW_BYTES)
        self._ended = not chunk
        self._utf8.decode(chunk, final=self._ended)  # all of the file must be UTF-8, also what nobody looks at
        self._data = self._data[self._at :] + chunk
        self._at = 0


def _refuse(_: str) -> NoReturn:
    raise Declined


def _finite(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise Declined
    return value


_STRICT: Final[Any] = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
