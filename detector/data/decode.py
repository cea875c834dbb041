"""The one image reader: the same file gives the same pixels to training, scoring and prediction."""

import errno
import io
import stat
import struct
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector.errors import DataError
from detector.types import GREY

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
_FAST = ("JPEG", "MPO")
MAX_PIXELS = 100_000_000
_MAX_BYTES = 1 << 30
_ORIENTATION = 0x0112
_END_OF_JPEG = b"\xff\xd9"
_SENSOR_BITS = (8, 10, 12, 14, 16)
# What says "grey" here only says how small: OpenCV refuses its BGR flag, which is in the other ones, beside RGB.
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
_PILLOW_ERRORS = (OSError, ValueError, SyntaxError, KeyError, IndexError, TypeError, EOFError, OverflowError,
                  struct.error, MemoryError, Image.DecompressionBombError)  # fmt: skip

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Averages over squares of pixels from the top-left corner on; those at the end may lie across it."""

    pixels: Pixels  # [ceil(h / factor), ceil(w / factor), 3] RGB
    factor: int  # side of a square


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode to RGB [h, w, 3], turned as EXIF says.

    Transparent pixels are mixed with `types.GREY`. Of an animation the first frame counts. A 16-bit grey image is
    scaled from the smallest of 8, 10, 12, 14 and 16 bits that holds its largest value: sensors store 12 bits in 16.

    Raises:
        DataError: the file is missing, too large, cut, or no image of a known format.
    """
    return ImageFile(path, max_pixels=max_pixels).pixels()


class ImageFile:
    """An image of which only the size is known so far, where its format says it without decoding."""

    def __init__(self, path: Path, *, max_pixels: int = MAX_PIXELS) -> None:
        self._path = path
        self._data = _contents(path)
        with _silence():
            self._image = _open(path, self._data, max_pixels)
        self._decoded: Pixels | None = None
        if self._image.format in _FAST:
            self._orientation = _orientation(self._image)
            width, height = self._image.size
            self.size_hw = (width, height) if self._orientation >= 5 else (height, width)
        else:  # a PNG may have its orientation after its pixels
            self._orientation = 1
            self._decoded = self._decode(1).pixels
            self.size_hw = (self._decoded.shape[0], self._decoded.shape[1])

    def pixels(self) -> Pixels:
        """Every pixel, as `read_image` gives them.

        Raises:
            DataError: the file is damaged or cut.
        """
        return self.reduced(1).pixels

    def reduced(self, largest: int) -> Reduced:
        """Averages over squares of `largest` by `largest` pixels, or of as many as can be had for less work than all.

        Only a JPEG has a cheap way to its averages.

        Raises:
            DataError: the file is damaged or cut.
        """
        return self._decode(largest) if self._decoded is None else Reduced(pixels=self._decoded, factor=1)

    def _decode(self, largest: int) -> Reduced:
        with _silence():
            factor = self._factor(largest)
            try:
                pixels = _fast_jpeg(self._image, self._data, factor)
                if pixels is None:
                    factor = 1
                    pixels = _to_rgb(self._path, self._image)
            except DataError:
                raise
            except _PILLOW_ERRORS as error:
                reason = f"is damaged or cut ({_first_line(error)})"
                raise DataError(f"{self._path}: {reason}; copy the file again") from error
            if _is_cut_jpeg(self._image, self._data, pixels, factor):
                raise DataError(f"{self._path}: is cut in the middle; copy the file again")
            return Reduced(pixels=_turned(pixels, _orientation(self._image)), factor=factor)

    def _factor(self, largest: int) -> int:
        # The squares begin at the stored top-left corner: a mirrored image would begin with a part of a square.
        mirrored = self._orientation not in (1, 5)
        for factor in _REDUCED:
            if factor <= largest and not (mirrored and any(side % factor for side in self._image.size)):
                return factor
        return 1


def image_size(path: Path, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width as `read_image` gives them, from the header alone.

    Raises:
        DataError: as `read_image`, save for damage behind the header.
    """
    data = _contents(path)
    with _silence():
        image = _open(path, data, max_pixels)
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


@contextmanager
def _silence() -> Generator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what is refused or repaired here
        yield


def _contents(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path}: is a directory, not an image; correct its file_name")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device could wait for ever
            raise DataError(f"{path}: is not a regular file; replace it with an image")
        if status.st_size > _MAX_BYTES:
            raise DataError(f"{path}: {status.st_size} bytes are too many for an image; make it smaller")
        data = path.read_bytes()
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{str(path)!r}: is no possible file name; correct it") from error
    except OSError as error:
        reason = "no such file" if error.errno == errno.ENOENT else f"cannot be read ({error.strerror})"
        raise DataError(f"{path}: {reason}; check the path and its permissions") from error
    if not data:
        raise DataError(f"{path}: is empty; copy the file again")
    if data.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: is a git-lfs pointer, not the image itself; run `git lfs pull`")
    return data


def _open(path: Path, data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: has far more than {max_pixels} pixels; make it smaller") from error
    except _PILLOW_ERRORS as error:
        raise DataError(f"{path}: is no image of a known format ({', '.join(FORMATS)}); convert it") from error
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"{path}: {width}x{height} has more than {max_pixels} pixels; make it smaller")
    if width * height == 0:
        raise DataError(f"{path}: has no pixels; replace or remove it")
    return image


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # Pillow turns these by itself
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _PILLOW_ERRORS:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _fast_jpeg(image: Image.Image, data: bytes, reduction: int) -> Pixels | None:
    """OpenCV needs two thirds of Pillow's time for the same pixels, but version 4 says nothing of a cut file."""
    if image.format not in _FAST or image.mode not in ("RGB", "L"):
        return None
    if data[-2:] != _END_OF_JPEG and not data[-64:].rstrip(b"\0\r\n ").endswith(_END_OF_JPEG):
        return None
    flags = _REDUCED.get(reduction, 0) | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape != (-(-image.height // reduction), -(-image.width // reduction), 3):
        return None
    return np.asarray(pixels, np.uint8)


def _is_cut_jpeg(image: Image.Image, data: bytes, pixels: Pixels, reduction: int) -> bool:
    """Whether a JPEG lacks data although it ends as it should.

    Decoders paint what is lacking in mid-grey. A picture may end in that grey as well; so more data is slipped in
    before the end: a whole picture ignores it, a cut one changes.
    """
    block = 8 // reduction
    if image.format != "JPEG" or not (pixels[-block:, -block:] == 128).all():
        return False
    end = data.rfind(_END_OF_JPEG)
    versions = (data, data[:end] + b"\x5a\xc3" * 512 + data[end:])
    plain, longer = (Image.open(io.BytesIO(version), formats=("JPEG",)).convert("RGB") for version in versions)
    return plain.tobytes() != longer.tobytes()


def _to_rgb(path: Path, image: Image.Image) -> Pixels:
    image.load()
    if image.mode.startswith("I"):
        return np.repeat(_eight_bit(path, np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DataError(f"{path}: has floating-point pixels of unknown range; convert it to 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_grey(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def _eight_bit(path: Path, values: NDArray[np.integer]) -> Pixels:
    largest = int(values.max())
    if values.min() < 0 or largest >= 1 << _SENSOR_BITS[-1]:
        raise DataError(f"{path}: has pixel values up to {largest}, more than 16 bits hold; convert it to 8 bits")
    bits = next(bits for bits in _SENSOR_BITS if largest < 1 << bits)
    return (values >> (bits - 8)).astype(np.uint8)


def _on_grey(rgba: Pixels) -> Pixels:
    alpha = rgba[:, :, 3:].astype(np.uint16)
    mixed = rgba[:, :, :3] * alpha + GREY * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Undo the turn and mirror that the EXIF orientation names (1 is upright)."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
