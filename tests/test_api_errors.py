"""What the Python API refuses, in one sentence."""

import numpy as np
import pytest
from torch import nn

import residual

ONE = {"threads": 1, "precision": "float32"}


class Sized(nn.Module):
    """One whose size is no number."""

    input_size = (3, 64, 64)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), "is no data: name digits, cifar10 or a folder"),
        (42, "is no data"),
        ((np.zeros((4, 8, 8, 3)), [0, 1, 0, 1], "ab"), r"of uint8, not \(4, 8, 8, 3\) of float64"),
        ((np.zeros((4, 3, 8, 8), np.uint8), [0, 1, 0, 1], "ab"), r"\(N, H, W, 3\) of uint8, not"),
        ((np.zeros((4, 8, 8, 3), np.uint8), [0, 1], "ab"), "4 images have as many labels"),
        ((np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 2, 1], "ab"), "labels are indices of the 2 cl"),
        ((np.zeros((3, 8, 8, 3), np.uint8), [0, 1, 1], "ab"), "each class needs two images"),
        (([[1], [2, 3]], [0, 1], "ab"), "images and labels are arrays of numbers: "),
        ((np.zeros((4, 8, 8, 3), np.uint8), list("abab"), "ab"), "arrays of numbers: can't"),
        ((np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1], "aa"), "classes are different names"),
        ((np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1], 2), "one for each number, not 2"),
        ((np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1], "ab", 4), r"\(test_images, test_labels"),
        (
            (
                *[np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1], "ab"],
                (np.zeros((1, 9, 8, 3), np.uint8), [0]),
            ),
            r"the images are \(8, 8\), and those of the test are \(9, 8\)",
        ),
        ("no-such-folder", "no data 'no-such-folder'"),
    ],
)
def test_data_of_another_form_is_refused_in_a_sentence(data, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        next(residual.train("resnet8", data, steps=1, out=tmp_path / "run", **ONE))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("resnet9", {}, "no network 'resnet9'"),
        (3, {}, "3 is no network: give its name, or a torch.nn.Module"),
        ("resnet8", {"recipe": "best"}, "no recipe 'best'"),
        ("resnet8", {"recipe": 3}, "3 is no recipe"),
        ("resnet8", {"lr": "fast"}, "lr is like 0.1, not 'fast'"),
        ("resnet8", {"batch": 0}, "batch is at least 1, not 0"),
        ("resnet8", {"device": "tpu"}, "no device 'tpu' here"),
        ("resnet8", {"weights": "nowhere"}, "there is no file nowhere"),
        ("resnet50", {}, "digits has small pictures"),
        ("here:Net", {}, "the network here:Net is a class that is not here"),
        ("test_api_errors:Sized", {}, r"a number of pixels, like 224, not \(3, 64, 64\)"),
        ("pathlib:Path", {}, "pathlib:Path is no class of networks"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(model, options, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        next(residual.train(model, steps=1, out=tmp_path / "run", **ONE | options))
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_warned_about_where_an_older_one_is_read(tmp_path):
    run = tmp_path / "run"
    events = residual.train("resnet8", "digits", steps=4, out=run, checkpoint_minutes=0, **ONE)
    *_, last = events
    *_, older, newest = sorted((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=newest.name):
        net = residual.load(run)
    assert net.step < last.step and f"{net.step:08}" in older.name
