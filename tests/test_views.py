"""The views of every protocol, and what a record and a refusal tell of them.

That a protocol equals its naive loop is in test_protocols.py.
"""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.datasets import FolderSource, ImageFiles, ImageTensors
from residual.data.decode import OversizedImage, decode, resize
from residual.data.normalization import Preprocessing
from residual.data.test_crops import Views, resize_shorter_side
from residual.models.registry import build
from residual.runs.load import Trained
from residual.tasks.classification.checks import check_protocol
from residual.tasks.classification.evaluate import protocol_record
from residual.tasks.classification.inference import Member
from residual.tasks.classification.protocols import PROTOCOLS, get_protocol


def picture(width: int, height: int) -> Image.Image:
    """No two of its corners are alike."""
    draw = np.random.default_rng(width * height)
    coarse = draw.integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height))


@pytest.mark.parametrize("size", [(41, 30), (30, 47), (33, 33), (29, 29), (24, 90), (61, 25)])
def test_one_crop_is_the_centre_that_prediction_takes(size):
    image, file = picture(*size), io.BytesIO()
    image.save(file, "png")
    (found,) = Views("centre", (24, 20), (29,))(image, 0, 0)
    expected = decode(file.getvalue(), (24, 20), 29)
    assert np.array_equal(found[0], expected.permute(1, 2, 0).numpy())


def test_ten_crops_are_the_four_corners_and_the_centre_before_they_are_mirrored():
    image = picture(50, 30)
    (found,) = Views("corners", (24, 24), (30,))(image, 0, 0)
    boxes = [(13, 3), (0, 0), (26, 0), (0, 6), (26, 6)]
    expected = [np.asarray(image.crop((x, y, x + 24, y + 24))) for x, y in boxes]
    assert np.array_equal(found, np.stack(expected))


@pytest.mark.parametrize("size", [(41, 30), (30, 41), (640, 3), (37, 37)])
def test_a_whole_picture_keeps_its_form_at_every_shorter_side(size):
    arrays = Views("whole", (0, 0), (24, 31))(Image.new("RGB", size), 0, 0)
    for side, found in zip((24, 31), arrays, strict=True):
        _, height, width, _ = found.shape
        assert min(height, width) == side
        assert abs(width / height - size[0] / size[1]) < size[0] / size[1] / side


def test_a_stripe_that_would_become_too_large_counts_as_damaged():
    with pytest.raises(
        OversizedImage, match="shorter side of 640 it would have 12800000x640 pixels"
    ):
        resize_shorter_side(Image.new("RGB", (20_000, 1)), 640)


BASELINES = ("144crop", "150crop", "dense", "multiview")
SIZE = (224, 224)


def ruled(width: int, height: int) -> Image.Image:
    """A picture whose pixels say where they are."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x % 256, y % 256, x // 256 * 16 + y // 256], axis=2)
    return Image.fromarray(rgb.astype(np.uint8))


def place(pixel: np.ndarray) -> tuple[int, int]:
    """(left, top) of a pixel of a ruled picture."""
    x, y, high = pixel.tolist()
    return x + high // 16 * 256, y + high % 16 * 256


def ends(view: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first and the last pixel of a crop of a ruled picture."""
    return place(view[0, 0]), place(view[-1, -1])


@pytest.mark.parametrize(
    ("size", "begins"),
    [
        ((500, 256), [(0, 0), (122, 0), (244, 0)]),  # left, centre, right
        ((256, 301), [(0, 0), (0, 22), (0, 45)]),  # top, centre, bottom
        ((256, 256), [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_144_crops_are_where_they_are_said_to_be(size, begins):
    image = ruled(*size)
    (found,) = Views("squares", SIZE, (256,))(image, 0, 0)
    assert found.shape == (18, 224, 224, 3)
    for views, (x, y) in zip(found.reshape(3, 6, *found.shape[1:]), begins, strict=True):
        corners = [(x + 16, y + 16), (x, y), (x + 32, y), (x, y + 32), (x + 32, y + 32)]
        expected = [((left, top), (left + 223, top + 223)) for left, top in corners]
        assert [ends(view) for view in views[:5]] == expected
        square = resize(image.crop((x, y, x + 256, y + 256)), SIZE)
        assert np.array_equal(views[5], np.asarray(square))


def test_150_crops_are_a_grid_from_border_to_border():
    (found,) = Views("grid", SIZE, (384,))(ruled(512, 384), 0, 0)
    expected = [
        ((left, top), (left + 223, top + 223))
        for top in (0, 40, 80, 120, 160)
        for left in (0, 72, 144, 216, 288)
    ]
    assert [ends(view) for view in found] == expected


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("size", [(500, 375), (90, 120)])
def test_as_many_views_are_cut_as_the_protocol_says(name, size):
    asked = PROTOCOLS[name]
    cut = Views(asked.cut, SIZE, asked.sides)
    arrays = cut(ruled(*size), 0, 0)
    assert 2 * sum(map(len, arrays)) == asked.views
    made = sum(array.size // 3 for array in arrays)
    assert cut.pixels == pytest.approx(made, rel=0.01)


@pytest.fixture
def photographs(tmp_path) -> ImageFiles:
    return ImageFiles(FolderSource(tmp_path, ["0.png"]), torch.arange(1), torch.arange(1))


@pytest.mark.parametrize(
    ("name", "resize", "crop", "views"),
    [
        ("144crop", [256, 288, 320, 352], [224, 224], 144),
        ("150crop", [256, 384, 512], [224, 224], 150),
        ("dense", [256, 384, 512], None, 6),
        ("multiview", [256, 384, 480], None, 6),
    ],
)
def test_the_record_says_what_was_looked_at(photographs, name, resize, crop, views):
    before = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), SIZE, 256)
    record = protocol_record(get_protocol(name), [Member(build("resnet8"), before)], photographs)
    assert record == {
        "protocol": name,
        "resize": resize,
        "crop": crop,
        "interpolation": "bilinear, antialiased",
        "mirror": True,
        "views": views,
        "averaged": "probabilities",
    }


@pytest.mark.parametrize(
    ("name", "words", "views"),
    [
        ("144crop", {"mirror": False}, 72),
        ("144crop", {"sides": [256]}, 36),
        ("150crop", {"sides": [256, 384]}, 100),
        ("dense", {"mirror": False, "sides": [384]}, 1),
    ],
)
def test_another_mirror_or_other_sides_are_counted(name, words, views):
    assert get_protocol(name, **words).views == views


def trained(size: int, shorter: int | None) -> Trained:
    """A network that takes crops of this size."""
    before = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (size, size), shorter)
    return Trained(build("resnet8"), "resnet8", None, before, None, None)


@pytest.mark.parametrize("name", ["144crop", "150crop"])
def test_a_crop_that_is_in_no_picture_is_refused(photographs, name):
    why = "a crop of 224x224 is not in a picture whose shorter side is 200; choose larger sides"
    with pytest.raises(ValueError, match=why):
        check_protocol(trained(224, 256), photographs, get_protocol(name, sides=[200, 256]))
    with pytest.raises(ValueError, match="a crop of 299x299 is not in a picture whose"):
        check_protocol(trained(299, 342), photographs, get_protocol(name, sides=[256, 342]))
    check_protocol(trained(299, 342), photographs, get_protocol(name))  # in proportion
    check_protocol(trained(224, 256), photographs, get_protocol(name))


def test_whole_pictures_may_be_smaller_than_the_crop(photographs):
    for name in ("dense", "multiview"):
        check_protocol(trained(224, 256), photographs, get_protocol(name, sides=[200]))


def test_small_pictures_have_none_of_these_views():
    images = ImageTensors(
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    )
    for name in BASELINES:
        asked = replace(get_protocol(name), average="scores")
        with pytest.raises(ValueError, match="takes small pictures, of which there is one view"):
            check_protocol(trained(32, None), images, asked)
