"""Every file and array shows the same to the tuner, the estimator and the server."""

import io

import numpy as np
import pytest
from PIL import Image
from pillow_heif import register_heif_opener

from craft_server.images.decoding import ImageLimits, open_image
from craft_shared.pictures import to_rgb
from craft_tuner.client.uploads import upload
from craft_tuner.data import formats
from craft_tuner.data.arrays import pictures_from
from craft_tuner.data.digits import load_digits
from craft_tuner.data.pictures import BytesPicture, FilePicture, check_head, decode, recognise
from craft_tuner.errors import PictureError
from craft_tuner.runs.thumbnails import thumbnail
from tests.support.picture_cases import CASES
from tests.support.picture_files import COLOUR, GREY, INK, over_white, rgb, saved
from tests.support.tuner_server import FakeServer, files_of, transport_to

LIMITS = ImageLimits(
    bytes=10**6,
    pixels=10**5,
    owner_bytes=10**9,
    owner_images=10,
    images_per_set=5,
    owner_sets=4,
    owner_set_images=12,
)
SHOWN = [case for case in CASES if case.shows is not None]
NOT_SHOWN = [case for case in CASES if case.shows is None]


def by_name(case):
    return case.name


def sent(pictures):
    """The files that reach a server."""
    server = FakeServer()
    with transport_to(server) as transport:
        upload(transport, pictures, limits=server.cards[0].limits, set_size=9, name="")
    return [data for asked in server.calls("/v1/images") for data in files_of(asked)]


@pytest.mark.parametrize("case", SHOWN, ids=by_name)
def test_server_tuner_and_estimator_see_the_same_picture(case, tmp_path):
    path = tmp_path / "picture.txt"  # no ending is believed
    path.write_bytes(case.data)
    mine = decode(FilePicture(path, "picture"))
    difference = np.abs(np.asarray(mine).astype(int) - case.shows)
    assert difference.max() <= case.tolerance
    [arrived] = sent([FilePicture(path, "picture")])
    assert (arrived == case.data) == case.served
    assert open_image(arrived, LIMITS).tobytes() == mine.tobytes()
    opened = Image.open(io.BytesIO(case.data))
    for held in (case.data, path, str(path), opened):
        [picture] = pictures_from([held])
        [arrived] = sent([picture])
        assert open_image(arrived, LIMITS).tobytes() == mine.tobytes()


@pytest.mark.parametrize("case", NOT_SHOWN, ids=by_name)
def test_what_shows_nothing_is_refused_by_name_and_nothing_leaves(case):
    picture = BytesPicture(case.data, "train/ox/7")
    with pytest.raises(PictureError, match=r"the image train/ox/7\b") as caught:
        decode(picture)
    assert caught.value.picture == "train/ox/7"
    server = FakeServer()
    with transport_to(server) as transport, pytest.raises(PictureError, match="train/ox/7"):
        upload(transport, [picture], limits=server.cards[0].limits, set_size=9, name="")
    assert not server.calls("/v1/images")


@pytest.mark.parametrize("case", SHOWN[::5], ids=by_name)
def test_a_thumbnail_can_be_made_of_any(case):
    assert thumbnail(BytesPicture(case.data, "a")).startswith("data:image/")


def white_ink(pixels):
    return Image.merge("LA", (Image.new("L", pixels.shape[::-1], 255), Image.fromarray(pixels)))


DIGITS = {
    "16 bit": lambda pixels: Image.fromarray(pixels.astype(np.uint16) * 257),
    "12 in 16 bit": lambda pixels: Image.fromarray((pixels * (4095 / 255)).round().astype("u2")),
    "float": lambda pixels: Image.fromarray((pixels / 255).astype(np.float32)),
    "grey and alpha": white_ink,
}


@pytest.mark.parametrize("kind", DIGITS)
def test_digits_are_the_same_pixels_at_any_depth(kind):
    """So their accuracy is that of the 8-bit files."""
    for item in load_digits().train[:100]:
        plain = decode(item.picture)
        pixels = np.asarray(plain)[..., 0]
        assert (pixels.min(), pixels.max()) == (0, 255), "8 bits that span their range"
        data = saved(DIGITS[kind](pixels), "TIFF")
        assert decode(BytesPicture(data, "digit")).tobytes() == plain.tobytes()


def turned_by(orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif.tobytes()


SOFT = GREY[::-1]
WIDE = GREY.astype(np.uint16)
ARRAYS = {
    "uint8": (GREY, rgb(GREY)),
    "uint8, one channel": (GREY[:, :, None], rgb(GREY)),
    "uint8, alpha": (np.stack([GREY, SOFT], 2), over_white(GREY, SOFT)),
    "uint8, colour": (COLOUR, COLOUR),
    "uint8, colour and alpha": (np.dstack([COLOUR, SOFT]), over_white(COLOUR, SOFT)),
    "bool": (INK > 0, rgb(INK)),
    "bool, one channel": ((INK > 0)[:, :, None], rgb(INK)),
    "uint16": (WIDE * 257, rgb(GREY)),
    "uint16, big-endian": ((WIDE * 257).astype(">u2"), rgb(GREY)),
    "12 in 16": (np.rint(WIDE * (4095 / 255)).astype(np.uint16), rgb(GREY)),
    "uint16, one channel": ((WIDE * 257)[:, :, None], rgb(GREY)),
    "uint16, alpha": (
        np.stack([WIDE, WIDE[::-1]], 2) * 257,
        over_white(GREY, SOFT),
    ),
    "uint16, colour": (COLOUR.astype(np.uint16) * 257, COLOUR),
    "int8": ((GREY.astype(int) - 128).astype(np.int8), rgb(GREY)),
    "int32": (GREY.astype(np.int32) * 1000 - 50_000, rgb(GREY)),
    "int64": (GREY.astype(np.int64), rgb(GREY)),
    "uint32": (GREY.astype(np.uint32) * 16_843_009, rgb(GREY)),
    "float16": ((GREY / 255).astype(np.float16), rgb(GREY)),
    "float32": ((GREY / 255).astype(np.float32), rgb(GREY)),
    "float64": (GREY / 255, rgb(GREY)),
    "float of any range": (GREY * 3.5 - 1000, rgb(GREY)),
    "float, one channel": ((GREY / 255)[:, :, None], rgb(GREY)),
    "float, colour": (COLOUR / 255, COLOUR),
    "float, colour and alpha": (np.dstack([COLOUR, SOFT]) / 255, over_white(COLOUR, SOFT)),
    "not contiguous": (COLOUR[::-1, ::-1], COLOUR[::-1, ::-1]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_shows_what_its_8_bit_twin_shows(name):
    values, shows = ARRAYS[name]
    [picture] = pictures_from([values])
    found = np.asarray(decode(picture)).astype(int)
    assert np.abs(found - shows).max() <= 1
    if "alpha" not in name and name != "float16":
        assert np.array_equal(found, shows)


def test_pillow_images_of_every_mode_are_shown_by_the_rule():
    turned = Image.fromarray(COLOUR)
    turned.getexif()[0x112] = 6
    image = Image.open(io.BytesIO(saved(turned, "PNG", exif=turned.getexif())))
    [picture] = pictures_from([image])
    assert decode(picture).size == (COLOUR.shape[0], COLOUR.shape[1])


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "is HEIC, which needs pillow-heif"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "is HEIC, which needs pillow-heif"),
        (b"\xff\x0a\xfa\x1f", "is JPEG XL, which needs pillow-jxl-plugin"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL, which needs pillow-jxl-plugin"),
    ],
)
def test_a_format_that_a_package_reads_says_which(monkeypatch, head, words):
    monkeypatch.setattr(formats, "_convertible", lambda: ("BMP",))
    picture = BytesPicture(head + bytes(100), "a.png")
    for look in (recognise, decode, lambda one: check_head(one.data, one.name, most_pixels=9)):
        with pytest.raises(PictureError, match=f"the image a.png {words}"):
            look(picture)


SKY = np.stack(np.broadcast_arrays(np.arange(96)[:, None], np.arange(128), 90), 2).astype(np.uint8)
FADE = np.broadcast_to(np.arange(128, dtype=np.uint8) + 128, SKY.shape[:2])
HEIC = {
    "colour": (Image.fromarray(SKY), {}, SKY),
    "turned": (Image.fromarray(SKY), {"exif": turned_by(6)}, np.rot90(SKY, -1)),
    "alpha": (Image.fromarray(np.dstack([SKY, FADE])), {}, over_white(SKY, FADE)),
    "12 in 16 bit": (Image.fromarray(WIDE * 16), {}, rgb(GREY)),
}


@pytest.mark.parametrize("kind", HEIC)
def test_heic_photos_are_converted(kind):
    register_heif_opener()
    image, options, shows = HEIC[kind]
    picture = BytesPicture(saved(image, "HEIF", quality=-1, **options), "IMG_1.HEIC")
    mine = decode(picture)
    assert np.abs(np.asarray(mine).astype(int) - shows).max() <= 4, "as far as its codec goes"
    [arrived] = sent([picture])
    assert open_image(arrived, LIMITS).tobytes() == mine.tobytes()


@pytest.mark.parametrize("kept", [20, 200, 0.5, 0.95])
def test_a_damaged_heic_file_is_not_said_to_need_a_package_that_is_here(kept):
    register_heif_opener()
    whole = saved(Image.fromarray(COLOUR), "HEIF")
    part = whole[: kept if kept > 1 else int(kept * len(whole))]
    with pytest.raises(PictureError, match=r"cannot decode the image a\.heic"):
        decode(BytesPicture(part, "a.heic"))


def test_a_plugin_that_knows_no_exif_says_none():
    opened = Image.fromarray(COLOUR)
    opened.info["exif"] = None  # as JPEG XL's does
    assert to_rgb(opened).tobytes() == COLOUR.tobytes()


def test_pillow_without_avif_says_what_reads_it(monkeypatch):
    monkeypatch.setattr(formats, "_convertible", lambda: ("BMP",))
    with pytest.raises(PictureError, match=r"is AVIF, which needs pillow 11\.3 or later"):
        decode(BytesPicture(b"\0\0\0\x1cftypavif" + bytes(99), "a"))
