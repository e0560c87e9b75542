"""What finishing.py claims: in bulk or image by image, a batch is the same."""

import pytest
import torch

from residual.data.loader import CpuCollate, finish_batch
from residual.data.preprocessing import Preprocessing
from residual.data.sampler import DataConfig


@pytest.mark.parametrize(("erasing", "per_channel"), [(0.0, False), (0.5, True)])
def test_image_by_image_a_batch_becomes_what_it_does_in_bulk(erasing, per_channel):
    draw = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (7, 33, 33, 3), dtype=torch.uint8, generator=draw)
    mean, std = torch.rand(3, 33, 33, generator=draw), torch.tensor([0.2, 0.3, 0.4])
    mean = mean.mean(dim=(1, 2), keepdim=True) if per_channel else mean
    way = Preprocessing(mean, std.view(3, 1, 1), (33, 33), 36)
    how = DataConfig(batch=7, seed=1, crop="scale", size=33, colour=0.1, erasing=erasing)
    ids, epochs = torch.arange(7) + 5, torch.arange(7) // 3
    parts = list(crops.split(4))
    one_by_one = CpuCollate(way, how)(parts, ids, epochs)
    assert torch.allclose(one_by_one, finish_batch(crops, ids, epochs, way, how), atol=1e-5)


def test_the_memory_of_a_batch_is_taken_again_once_nobody_holds_it():
    mean = Preprocessing(torch.zeros(3, 1, 1), torch.ones(3, 1, 1), (8, 8))
    collate = CpuCollate(mean, DataConfig(batch=4, seed=0, size=8))
    first = collate.buffer(4, 8)
    view, where = first.t()[2:], first.data_ptr()
    del first
    second = collate.buffer(4, 8)  # the first is held by a view
    assert second.data_ptr() != where
    assert collate.buffer(2, 8).data_ptr() not in (where, second.data_ptr())
    del view
    assert collate.buffer(4, 8).data_ptr() == where
