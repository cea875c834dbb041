import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from detector.data import decode
from detector.errors import DataError
from tests.unit.data import make


def _save(path: Path, image: Image.Image, **save: object) -> Path:
    image.save(path, **save)
    return path


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def _jpeg(size_hw: tuple[int, int] = (40, 60), **save: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(make.pixels(size_hw)).save(buffer, "JPEG", quality=95, **save)
    return buffer.getvalue()


def _fails(path: Path, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        decode.read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# Formats and modes


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_formats_give_the_very_pixels(tmp_path: Path, suffix: str) -> None:
    path = make.picture(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    image = decode.read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, make.pixels())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
@pytest.mark.parametrize("size_hw", [(40, 60), (1, 1), (17, 33), (1, 300)])
def test_the_fast_way_gives_the_pixels_of_the_other(
    tmp_path: Path, options: dict[str, object], size_hw: tuple[int, int]
) -> None:
    data = _jpeg(size_hw, **options)
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode.read_image(path), expected)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "RGB", "HSV"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(make.pixels())
    suffix = "jpg" if mode in ("CMYK",) else "tiff" if mode in ("YCbCr", "HSV") else "png"
    if mode == "HSV":
        source, mode = source.convert("L"), "L"
    made = source.convert(mode)
    image = decode.read_image(_save(tmp_path / f"a.{suffix}", made))
    assert image.shape == (40, 60, 3)
    tolerance = 40 if suffix == "jpg" else 3
    assert np.abs(image.astype(int) - np.asarray(made.convert("RGB"))).mean() < tolerance


def test_transparent_pixels_show_the_grey_of_the_canvas(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (200, 100, 0, 255)
    rgba[0, 1] = (200, 100, 0, 0)
    rgba[1, 0] = (255, 255, 255, 128)
    image = decode.read_image(_save(tmp_path / "a.png", Image.fromarray(rgba)))
    assert image[0].tolist() == [[200, 100, 0], [114] * 3]
    assert image[1, 0].tolist() == [round((255 * 128 + 114 * 127) / 255)] * 3


def test_a_transparent_palette_colour_is_grey_too(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putdata([0, 1])
    for suffix in ("png", "gif"):
        image = decode.read_image(_save(tmp_path / f"a.{suffix}", palette, transparency=1))
        assert image.tolist() == [[[255, 0, 0], [114, 114, 114]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 256, 65535], [0, 1, 255]),
        ([0, 16, 4095], [0, 1, 255]),
        ([0, 7, 255], [0, 7, 255]),
        ([0, 4, 900], [0, 1, 225]),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_from_the_depth_in_use(
    tmp_path: Path, values: list[int], expected: list[int], suffix: str
) -> None:
    path = _save(tmp_path / f"a.{suffix}", Image.fromarray(np.array([values], np.uint16)))
    assert decode.read_image(path)[0, :, 0].tolist() == expected


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    _fails(_save(tmp_path / "f.tiff", Image.fromarray(np.ones((4, 4), np.float32))), "floating-point")
    _fails(_save(tmp_path / "i.tiff", Image.fromarray(np.full((4, 4), 70000, np.int32))), "16 bits")
    _fails(_save(tmp_path / "n.tiff", Image.fromarray(np.full((4, 4), -1, np.int32))), "16 bits")


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "png", "webp", "tiff"):
        extra = {"lossless": True} if suffix == "webp" else {}
        path = _save(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **extra)
        assert decode.read_image(path)[3, 4].tolist() == [255, 0, 0]


def test_a_phone_picture_with_a_second_image_inside(tmp_path: Path) -> None:
    frames = [Image.fromarray(make.pixels(seed=i)) for i in range(2)]
    path = _save(tmp_path / "a.jpg", frames[0], format="MPO", save_all=True, append_images=frames[1:], quality=95)
    np.testing.assert_allclose(decode.read_image(path), frames[0], atol=40)


def test_a_wrong_suffix_does_not_matter(tmp_path: Path) -> None:
    make.picture(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(decode.read_image(tmp_path / "a.jpg"), make.pixels())


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 5000), (3000, 1)])
def test_extreme_shapes(tmp_path: Path, size_hw: tuple[int, int]) -> None:
    assert decode.read_image(make.picture(tmp_path / "a.png", size_hw)).shape == (*size_hw, 3)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_orientation_is_applied_exactly_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    save = {"exif": _exif(orientation)} | ({"lossless": True} if suffix == "webp" else {})
    path = make.picture(tmp_path / f"a.{suffix}", **save)
    plain = make.picture(tmp_path / f"plain.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(plain) as opened:
        source = opened.convert("RGB")
        source.getexif()[0x0112] = orientation
        expected = ImageOps.exif_transpose(source)
    image = decode.read_image(path)
    np.testing.assert_array_equal(image, np.asarray(expected))
    assert image.flags.c_contiguous
    assert decode.image_size(path) == image.shape[:2] == ((60, 40) if orientation >= 5 else (40, 60))


def test_opencv_agrees_on_the_orientation_of_jpeg(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        path = make.picture(tmp_path / f"{orientation}.jpg", exif=_exif(orientation))
        np.testing.assert_array_equal(decode.read_image(path), cv2.imread(str(path))[:, :, ::-1])


@pytest.mark.parametrize("block", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + _exif(9)[6:]])
def test_damaged_or_senseless_exif_is_ignored(tmp_path: Path, block: bytes) -> None:
    path = make.picture(tmp_path / "a.jpg", exif=block)
    assert decode.read_image(path).shape == (40, 60, 3)
    assert decode.image_size(path) == (40, 60)


# Reduced decoding


def _smooth(size_hw: tuple[int, int]) -> np.ndarray:
    """No edges, so that every way of averaging gives nearly the same."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    planes = [128 + 90 * np.sin(x / 41 + y / 97), 128 + 90 * np.cos(y / 53), 128 + 90 * np.sin((x - y) / 61)]
    return np.stack(planes, axis=-1).round().astype(np.uint8)


def _averages(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor for side in pixels.shape[:2])
    whole = pixels[: height * factor, : width * factor].astype(np.float64)
    return whole.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size_hw", [(160, 240), (161, 247), (8, 9)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_the_average_of_the_whole_one(
    tmp_path: Path, factor: int, size_hw: tuple[int, int], orientation: int
) -> None:
    path = _save(tmp_path / "a.jpg", Image.fromarray(_smooth(size_hw)), quality=98, exif=_exif(orientation))
    file = decode.ImageFile(path)
    whole = file.pixels()
    assert file.size_hw == whole.shape[:2]
    made = file.reduced(factor)
    divisible = size_hw == (160, 240)
    assert made.factor == (factor if divisible or orientation in (1, 5) else 1)
    assert made.pixels.shape[:2] == tuple(-(-side // made.factor) for side in file.size_hw)
    expected = _averages(whole, made.factor)
    found = made.pixels[: expected.shape[0], : expected.shape[1]]
    assert np.abs(found - expected).mean() < 1.5


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 60}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_reduction_of_every_kind_of_jpeg(tmp_path: Path, mode: str, options: dict[str, object]) -> None:
    path = _save(tmp_path / "a.jpg", Image.fromarray(_smooth((160, 240))).convert(mode), **options)
    file = decode.ImageFile(path)
    assert file.reduced(4).factor == 4
    assert np.abs(file.reduced(4).pixels - _averages(file.pixels(), 4)).mean() < 1.5


@pytest.mark.parametrize(("largest", "factor"), [(1, 1), (2, 2), (3, 2), (7, 4), (100, 8)])
def test_reduction_stops_at_what_was_asked(tmp_path: Path, largest: int, factor: int) -> None:
    assert decode.ImageFile(make.picture(tmp_path / "a.jpg")).reduced(largest).factor == factor


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_other_formats_are_not_reduced(tmp_path: Path, suffix: str) -> None:
    path = make.picture(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    made = decode.ImageFile(path).reduced(8)
    assert made.factor == 1
    np.testing.assert_array_equal(made.pixels, make.pixels())


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("with_end", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.98])
def test_a_cut_jpeg_is_refused_at_any_reduction(tmp_path: Path, factor: int, with_end: bool, share: float) -> None:
    data = _jpeg((200, 300))
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * share)] + (b"\xff\xd9" if with_end else b""))
    with pytest.raises(DataError, match="cut"):
        decode.ImageFile(path).reduced(factor)


# Damage


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tiff"])
def test_a_cut_file_is_refused_wherever_it_was_cut(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    whole = _save(tmp_path / f"whole.{suffix}", Image.fromarray(noise)).read_bytes()
    path = tmp_path / f"a.{suffix}"
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError):
            decode.read_image(path)
        assert path.read_bytes() == whole[: int(len(whole) * share)]


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_refused(tmp_path: Path, progressive: bool) -> None:
    data = _jpeg((200, 300), progressive=progressive)
    path = tmp_path / "a.jpg"
    for cut in (1, 2, 3, len(data) // 2):
        path.write_bytes(data[:-cut])
        _fails(path, "damaged or cut")


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_cut_jpeg_that_was_given_an_end_is_refused(tmp_path: Path, share: float, orientation: int) -> None:
    data = _jpeg((200, 300), exif=_exif(orientation))
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: int(len(data) * share)] + b"\xff\xd9")
    _fails(path, "cut in the middle")


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_whole_picture_that_ends_in_mid_grey_is_read(tmp_path: Path, mode: str, progressive: bool) -> None:
    pixels = make.pixels((64, 96))
    pixels[32:] = 128
    path = _save(tmp_path / "a.jpg", Image.fromarray(pixels).convert(mode), progressive=progressive)
    assert (decode.read_image(path)[40:] == 128).all()


@pytest.mark.parametrize("tail", [b"\0" * 40, b"\r\n", b"trailing words of a camera" * 9])
def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_jpeg() + tail)
    expected = np.asarray(Image.open(io.BytesIO(_jpeg())).convert("RGB"))
    np.testing.assert_array_equal(decode.read_image(path), expected)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"just words", "no image of a known format"),
        (b"<!DOCTYPE html><html></html>", "no image of a known format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
        (b"%PDF-1.7 ...", "no image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known format"),
        (b"\xff\xd8\xff\xd9", "no image of a known format|damaged"),
        # Formats whose decoders were attacked: Photoshop, FITS (gzip inside), JPEG 2000, an icon, a McIdas area.
        (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(99), "no image of a known format"),
        (b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800), "no image of a known format"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99), "no image of a known format"),
        (b"\0\0\1\0\1\0" + bytes(99), "no image of a known format"),
        (b"\0\0\0\0\0\0\0\4" + bytes(300), "no image of a known format"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    _fails(path, says)
    with pytest.raises(DataError):
        decode.image_size(path)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    _fails(tmp_path / "folder.jpg", "is a directory")
    _fails(tmp_path / "pipe.jpg", "not a regular file")
    _fails(tmp_path / "loop.jpg", "cannot be read")
    _fails(tmp_path / "none.jpg", "no such file")
    _fails(Path("/dev/zero"), "not a regular file")
    with pytest.raises(DataError, match="no possible file name"):
        decode.read_image(Path("a\0.jpg"))
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate(2**30 + 1)  # takes no room on the disk
    _fails(tmp_path / "long.jpg", "bytes are too many for an image")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *, body: bytes = b"", packed: bytes | None = None, extra: bytes = b"") -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = _chunk(b"IDAT", zlib.compress(body) if packed is None else packed)
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + _chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (65_535, 65_535), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(_png(*size))
    _fails(tmp_path / "a.png", "pixels|known format")


BOMB = 300_000_000  # bytes, of which deflate makes less than one in a thousand


def _packed_zeros() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([packer.compress(bytes(BOMB // 100)) for _ in range(100)] + [packer.flush()])


@pytest.mark.parametrize("place", ["pixels", "text", "profile", "exif"])
def test_what_unpacks_to_more_than_the_picture_takes_no_memory(tmp_path: Path, place: str) -> None:
    """In a process of its own, which may take a third of what the bomb holds."""
    packed = _packed_zeros()
    row = b"\0" + bytes(9)
    whole = {"body": row * 9}
    content = {
        "pixels": lambda: _png(9, 9, packed=packed),
        "text": lambda: _png(9, 9, extra=_chunk(b"zTXt", b"a\0\0" + packed), **whole),
        "profile": lambda: _png(9, 9, extra=_chunk(b"iCCP", b"a\0\0" + packed), **whole),
        "exif": lambda: _png(9, 9, extra=_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed), **whole),
    }[place]()
    assert len(content) < BOMB // 900
    (tmp_path / "a.png").write_bytes(content)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from detector.data import decode\n"
        "from detector.errors import DataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: print(decode.read_image(Path(sys.argv[1])).shape)\n"
        "except DataError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True, check=True
    )
    answer, kilobytes = done.stdout.splitlines()
    assert answer == "(9, 9, 3)" or "damaged" in answer or "known format" in answer
    assert int(kilobytes) < BOMB / 3 / 1024


def test_a_jpeg_header_that_lies_is_refused(tmp_path: Path) -> None:
    data = bytearray(_jpeg())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 65500, 65500)
    (tmp_path / "a.jpg").write_bytes(bytes(data))
    _fails(tmp_path / "a.jpg", "pixels")


def test_the_limit_can_be_moved(tmp_path: Path) -> None:
    path = make.picture(tmp_path / "a.png")
    assert decode.read_image(path, max_pixels=2400).shape == (40, 60, 3)
    with pytest.raises(DataError, match="60x40"):
        decode.read_image(path, max_pixels=2399)


def test_no_width_and_a_bad_checksum(tmp_path: Path) -> None:
    (tmp_path / "flat.png").write_bytes(_png(0, 5))
    _fails(tmp_path / "flat.png", "no pixels|known format|damaged")
    data = bytearray(make.picture(tmp_path / "a.png").read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    (tmp_path / "a.png").write_bytes(bytes(data))
    _fails(tmp_path / "a.png", "damaged or cut")


def test_random_damage_never_gives_anything_but_an_image_or_our_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "x"
    seeds = [
        make.picture(tmp_path / f"a.{suffix}").read_bytes() for suffix in ("jpg", "png", "webp", "bmp", "gif", "tiff")
    ]
    for data in seeds:
        for _ in range(60):
            broken = bytearray(data)
            for place in rng.integers(len(data), size=rng.integers(1, 6)):
                broken[place] = rng.integers(256)
            path.write_bytes(bytes(broken))
            try:
                image = decode.read_image(path, max_pixels=1_000_000)
            except DataError:
                continue
            assert image.dtype == np.uint8
            assert image.ndim == 3
