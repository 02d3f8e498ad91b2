"""What an image file shows: every depth, mode, transparency and orientation as its 8-bit twin."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from craft_shared import pictures
from craft_shared.pictures import orientation, to_rgb
from tests.support.picture_cases import CASES
from tests.support.picture_files import GREY, INK, rgb

SHOWN = [case for case in CASES if case.shows is not None]


def exif(number, *, order="<", kind=3, count=1, before=()):
    tags = [*((tag, 4, 1, 0) for tag in before), (0x112, kind, count, number)]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}L", 8)
    entries = b"".join(struct.pack(f"{order}HHLHxx", *tag) for tag in tags)
    return head + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def test_there_are_files_of_every_kind():
    assert len(CASES) >= 80
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", SHOWN, ids=lambda case: case.name)
def test_a_file_shows_what_its_plain_twin_shows(case):
    image = to_rgb(Image.open(io.BytesIO(case.data)))
    assert (image.mode, image.info) == ("RGB", {})
    found = np.asarray(image).astype(int)
    assert found.shape == case.shows.shape
    assert np.abs(found - case.shows).max() <= case.tolerance


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.shows is None], ids=lambda case: case.name
)
def test_what_cannot_be_shown_is_an_error(case):
    with pytest.raises((ValueError, OSError, SyntaxError)):
        to_rgb(Image.open(io.BytesIO(case.data)))


@pytest.mark.parametrize("case", SHOWN, ids=lambda case: case.name)
def test_twice_is_once(case):
    image = to_rgb(Image.open(io.BytesIO(case.data)))
    assert to_rgb(image).tobytes() == image.tobytes()


def test_bands_are_seamless(monkeypatch):
    image = Image.fromarray(GREY.astype(np.uint16) * 16 + 5)
    whole = to_rgb(image).tobytes()
    monkeypatch.setattr(pictures, "BAND", 50)
    assert to_rgb(image).tobytes() == whole


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N", "I", "F"])
def test_every_mode_of_deep_grey(mode):
    image = Image.new(mode, (3, 1), 1000)
    image.putpixel((1, 0), 2000)
    image.putpixel((2, 0), 3000)
    assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA", "LA", "RGBA"])
def test_every_mode_with_alpha_lies_on_white(mode):
    ink = Image.merge("LA", (Image.new("L", INK.shape[::-1]), Image.fromarray(INK)))
    image = ink.convert("RGBA") if mode in {"RGBa", "PA"} else ink
    image = image if image.mode == mode else image.convert(mode)
    assert np.array_equal(np.asarray(to_rgb(image)), rgb(255 - INK))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_without_alpha_is_converted(mode):
    image = to_rgb(Image.new(mode, (3, 2)))
    assert (image.mode, image.size) == ("RGB", (3, 2))


def test_the_image_given_stays_as_it_is():
    image = Image.new("RGB", (2, 3))
    image.info["exif"] = b"Exif\0\0" + exif(6)
    assert to_rgb(image).size == (3, 2)
    assert (image.size, list(image.info)) == ((2, 3), ["exif"])


@pytest.mark.parametrize(
    ("data", "number"),
    [
        *((exif(number), number) for number in range(1, 9)),
        (exif(6, order=">"), 6),
        (b"Exif\0\0" + exif(6), 6),
        (exif(6, before=range(0x100, 0x110)), 6),
        (exif(6)[:-4], 6),
        (exif(6, before=[1]) + bytes(100), 6),
        (exif(0), 1),
        (exif(9), 1),
        (exif(6, kind=5), 1),
        (exif(6, count=2), 1),
        (b"", 1),
        (b"Exif\0\0", 1),
        (b"II*\0", 1),
        (b"II*\0\xff\xff\xff\xff", 1),
        (exif(6)[:-8], 1),
        (b"XX" + exif(6)[2:], 1),
        (b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 12 * 5, 1),
    ],
)
def test_orientation_is_read_from_one_tag_and_damage_is_upright(data, number):
    assert orientation(data) == number


def test_deep_grey_that_is_transparent_everywhere_is_white():
    file = io.BytesIO()
    Image.fromarray(np.full((3, 4), 700, np.uint16)).save(file, "PNG", transparency=700)
    assert (np.asarray(to_rgb(Image.open(file))) == 255).all()
