"""Claims of contrast normalization and whitening."""

import numpy as np
import pytest
import torch

from residual.data.datasets import ImageTensors
from residual.data.normalization import contrast_preprocessing, normalize_contrast

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (300, 3, 4, 4), dtype=torch.uint8, generator=GENERATOR)
IMAGES = ImageTensors(PIXELS, torch.zeros(300).long())


def plainly(pixels: np.ndarray) -> np.ndarray:
    """One picture after another, in pylearn2's words."""
    flat = pixels.reshape(len(pixels), -1).astype(float)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return 55 * flat / np.sqrt((flat**2).sum(axis=1, keepdims=True))


def test_contrast_is_normalised_for_each_picture():
    found = normalize_contrast(PIXELS.double())
    assert np.allclose(found.flatten(1), plainly(PIXELS.numpy()))
    assert torch.allclose(found.flatten(1).norm(dim=1), torch.tensor(55.0).double())
    assert normalize_contrast(torch.full((1, 3, 4, 4), 0.3)).abs().max() < 1e-4


def test_the_scale_of_the_pixels_is_immaterial():
    assert torch.allclose(
        normalize_contrast(PIXELS.double()), normalize_contrast(PIXELS.double() / 255)
    )


def test_whitened_pictures_have_no_mean_and_the_covariance_that_the_added_tenth_leaves():
    how = contrast_preprocessing(IMAGES, whitened=True).double()
    white = how(PIXELS).flatten(1)
    assert white.mean(dim=0).abs().max() < 1e-4
    flat = plainly(PIXELS.numpy())
    values, vectors = np.linalg.eigh(np.cov(flat.T, bias=True))
    expected = vectors @ np.diag(values / (values + 0.1)) @ vectors.T
    assert np.allclose(np.cov(white.numpy().T, bias=True), expected, atol=1e-4)


def test_without_whitening_the_mean_image_is_subtracted():
    how = contrast_preprocessing(IMAGES, whitened=False)
    assert how.whitening is None
    assert how(PIXELS).mean(dim=0).abs().max() == pytest.approx(0, abs=1e-5)
    assert how.size == (4, 4)
