"""Caffe's files are read in each way of writing them, and damage is told from content."""

import pytest
import torch
from release import DRAW, blob, caffemodel

from residual.weights.caffe import read, read_mean


@pytest.mark.parametrize("form", ["packed", "old", "double"])
def test_each_way_of_writing_a_blob_is_read(tmp_path, form):
    mean = torch.randn(3, 5, 300, generator=DRAW)
    (tmp_path / "m").write_bytes(blob(mean, form))
    assert torch.equal(read_mean(tmp_path / "m"), mean)


def test_a_damaged_caffemodel_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "net.caffemodel"
    whole = caffemodel({"conv1": [torch.zeros(2, 3)], "fc1000": [torch.zeros(3), torch.zeros(3)]})
    file.write_bytes(whole)
    assert set(read(file)) == {"conv1/0", "fc1000/0", "fc1000/1"}
    refused = 0
    for end in range(1, len(whole)):
        file.write_bytes(whole[:end])
        try:
            read(file)
        except ValueError as error:
            assert "net.caffemodel" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused == len(whole) - 3  # nothing is seen where a cut is right after a layer
    for spoilt in (b"\xff" * 100, b"no protocol buffer at all", bytes(100)):
        file.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"net\.caffemodel (is damaged|holds no layer)"):
            read(file)


def test_a_mean_image_that_is_none_is_refused(tmp_path):
    file = tmp_path / "m.binaryproto"
    with pytest.raises(FileNotFoundError, match=r"no mean image .*m\.binaryproto"):
        read_mean(file)
    for spoilt in (b"\xff\xff", blob(torch.zeros(3)), blob(torch.zeros(1, 4, 4)), b""):
        file.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"m\.binaryproto (is damaged|holds no mean image)"):
            read_mean(file)
