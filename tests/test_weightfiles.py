"""Files of weights are read whatever wrote them, and nothing in them runs."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from residual.nets.weightfiles import file_of, read, unwrapped


class Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "zip", "old"])
def test_a_malicious_pickle_never_runs_and_is_refused_in_a_sentence(tmp_path, kind):
    file, trace = tmp_path / "weights.pth", tmp_path / "it_ran"
    if kind == "pickle":
        file.write_bytes(pickle.dumps({"conv1.weight": Attack(trace)}))
    else:
        torch.save({"x": Attack(trace)}, file, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match="without running code") as refused:
        read(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_refused_in_a_sentence(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read(file)
    file.touch()
    with pytest.raises(ValueError, match="is empty"):
        read(file)
    file.write_text("this is no network\n" * 20)
    with pytest.raises(ValueError, match="holds no weights"):
        read(file)


def test_a_saved_list_is_no_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list"):
        read(tmp_path / "list.pt")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["beside", "inside"])
def test_a_malicious_pickle_of_arrays_never_runs(tmp_path, place, protocol):
    file, trace = tmp_path / "R-50.pkl", tmp_path / "it_ran"
    harm = Attack(trace)
    blobs = {"conv1_w": np.zeros(3), "harm": harm} if place == "beside" else {"blobs": {"x": harm}}
    file.write_bytes(pickle.dumps(blobs, protocol=protocol))
    with pytest.raises(ValueError, match="without running code") as refused:
        read(file)
    assert "which no array needs" in str(refused.value.__cause__)
    assert not trace.exists()
    pickle.loads(file.read_bytes())  # the proof that it is malicious
    assert trace.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_out_of_a_pickle_as_tensors_and_momenta_do_not(tmp_path, protocol):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    blobs = {"conv1_w": array, "turned": array.T, "conv1_w_momentum": array, "lr": 0.1}
    raw = pickle.dumps({"blobs": blobs, "cfg": "a: 1"}, protocol=protocol)
    (tmp_path / "R-50.pkl").write_bytes(raw)
    content = unwrapped(read(tmp_path / "R-50.pkl"))
    assert set(content) == {"conv1_w", "turned", "lr"}
    assert torch.equal(content["conv1_w"], torch.tensor(array))
    assert torch.equal(content["turned"], torch.tensor(array).T)


def test_a_pickle_written_by_python_2_is_read(tmp_path):
    # {'conv1_w': numpy.float32([1, 2])}, instruction by instruction.
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
    dtype += b"J\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    array += b"(K\x01K\x02\x85" + dtype + b"\x89U\x08" + np.float32([1, 2]).tobytes() + b"tb"
    (tmp_path / "R-50.pkl").write_bytes(b"\x80\x02}(U\x07conv1_w" + array + b"u.")
    assert read(tmp_path / "R-50.pkl")["conv1_w"].tolist() == [1, 2]


def test_both_kinds_of_torch_files_are_read(tmp_path):
    state = {"fc.weight": torch.randn(2, 3)}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for file in ("a.pth", "a.safetensors"):
        assert torch.equal(unwrapped(read(tmp_path / file))["fc.weight"], state["fc.weight"])


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_timm_has_its_weights_inside(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*model\.safetensors"):
        file_of(tmp_path)
    (tmp_path / name).write_text("weights")
    assert file_of(tmp_path) == tmp_path / name
