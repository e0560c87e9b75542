"""The notebook and the entry points of torch.hub."""

from pathlib import Path

import pytest
import torch

import hubconf
import residual

ROOT = Path(__file__).parents[1]


def test_the_tour_runs(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tour = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in tour.cells)  # they are made by whoever reads it
    client = nbclient.NotebookClient(tour, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = str([cell.get("outputs") for cell in tour.cells])
    assert "of 360 images are wrong" in printed and "('CAM', (2, 2))" in printed
    assert printed.count("image/png") == 3  # the curve, the mistakes and their maps


def test_torch_hub_has_each_network():
    assert {"resnet20", "resnet50-v1.5", "create_model"} <= vars(hubconf).keys()
    names = [name for name in vars(hubconf) if callable(getattr(hubconf, name)) and name[0] != "_"]
    assert set(names) == {*residual.list_models(), "create_model"}  # as torch.hub.list has them
    net = torch.hub.load(str(ROOT), "resnet20", source="local", num_classes=3)
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
