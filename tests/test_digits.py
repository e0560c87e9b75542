"""What sources.py claims of digits: real digits, always the same ones held out."""

import torch
from sklearn.datasets import load_digits

from residual.data.sources import digits


def test_there_are_1437_digits_to_train_on_and_360_to_be_tested_on():
    data = digits()
    assert (data.name, data.classes) == ("digits", tuple("0123456789"))
    assert (len(data.train), len(data.test), data.val) == (1437, 360, None)
    for images in (data.train, data.test):
        assert images.pixels.dtype == torch.uint8
        assert tuple(images.pixels.shape[1:]) == (3, 8, 8)
        assert (images.pixels == images.pixels[:, :1]).all()


def test_each_digit_of_scikit_learn_is_there_once_with_its_label():
    levels, numbers = load_digits(return_X_y=True)
    scaled = [[(int(v) * 255 + 8) // 16 for v in row] for row in levels]
    expected = sorted((*row, int(n)) for row, n in zip(scaled, numbers, strict=True))
    data = digits()
    found = [
        (*image[0].flatten().tolist(), label)
        for images in (data.train, data.test)
        for image, label in zip(images.pixels, images.labels.tolist(), strict=True)
    ]
    assert sorted(found) == expected


def test_the_split_is_stratified_and_fixed():
    data, again = digits(), digits()
    share = data.test.labels.bincount() / (
        data.train.labels.bincount() + data.test.labels.bincount()
    )
    assert ((share - 0.2).abs() < 0.004).all()
    assert data.fingerprint == again.fingerprint
    # Written down once: a library that splits in another way must not go unnoticed.
    assert data.fingerprint == "8f2361e10de8070c1f2fad07386e1bf8fb2e78f44a0ab848d477408a42c852f2"
    assert torch.equal(data.test.pixels, again.test.pixels)
