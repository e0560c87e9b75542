"""What crops.py and inference.py claim: the views are right, and memory is bounded."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from residual.data.decode import OversizedImage, decode
from residual.data.test_crops import Views, resize_shorter_side
from residual.tasks.classification.inference import Ensemble, Member, evaluation_mode, sum_views
from residual.tasks.classification.protocols import Protocol

CPU = torch.device("cpu")
SCORES = Protocol("1crop", average="scores")


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


class Room(nn.Module):
    """A network on a device whose memory holds so many images."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.passed: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passed.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x.mean(dim=(2, 3))


def test_where_memory_is_short_the_micro_batch_is_halved_for_good():
    net, pixels = Room(3), torch.randint(0, 256, (21, 3, 8, 8), dtype=torch.uint8)
    panel = Ensemble([Member(net, Tensor.float)], SCORES, CPU, limit=16 * 64)
    assert torch.equal(panel(pixels), pixels.float().mean(dim=(2, 3)).double())
    assert net.passed == [16, 8, 4, *[2] * 10, 1]
    panel(pixels)
    assert max(net.passed[14:]) == 2


def test_where_not_even_one_view_fits_it_is_said_in_a_sentence():
    panel = Ensemble([Member(Room(0), Tensor.float)], SCORES, CPU, limit=1)
    with pytest.raises(RuntimeError, match="a single picture of 8x9 pixels does not fit into"):
        panel(torch.zeros(2, 3, 8, 9, dtype=torch.uint8))


def test_views_are_summed_for_the_pictures_they_are_of():
    panel = Ensemble([Member(Room(99), Tensor.float)], SCORES, CPU, limit=1)
    other = Ensemble([Member(Room(99), lambda x: 1000 + x.float())], SCORES, CPU, limit=1)
    draw = torch.Generator().manual_seed(0)

    def array(views: int, height: int) -> Tensor:
        return torch.randint(0, 256, (views, height, 4, 3), generator=draw, dtype=torch.uint8)

    pictures = [[array(2, 4), array(1, 5)], [], [array(2, 5), array(3, 5)]]
    sums, read = sum_views([panel, other], pictures)
    assert read.tolist() == [0, 2]
    for found, (first, second) in zip(sums, (pictures[0], pictures[2]), strict=True):
        expected = first.double().mean(dim=(1, 2)).sum(dim=0)
        expected += (1000 + second.double()).mean(dim=(1, 2)).sum(dim=0)
        assert torch.allclose(found, expected, rtol=1e-6)


def test_networks_are_in_evaluation_mode_only_while_they_judge():
    nets = [nn.Dropout().train(), nn.Dropout().eval()]
    with evaluation_mode(nets):
        assert [net.training for net in nets] == [False, False]
        assert torch.is_inference_mode_enabled()
    assert [net.training for net in nets] == [True, False]
    assert not torch.is_inference_mode_enabled()
