"""Weight files of any program are read, and no code in them runs."""

import argparse
import contextlib
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from residual.weights.files import entry, file_of, read


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
    with pytest.raises(ValueError, match="is damaged, or holds no weights"):
        read(file)


class Call:
    """What a pickle makes of this is what a call gives."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["beside", "inside", "key", "attribute", "nested"])
def test_harm_beside_weights_becomes_an_object_without_content(tmp_path, zipped, protocol, place):
    file, trace = tmp_path / "weights.pth", tmp_path / "it_ran"
    harm = Call(os.system, f"touch {trace}")
    state = {"conv1.weight": torch.arange(6.0).view(2, 3)}
    content = {
        "beside": {"state_dict": state, "args": harm},
        "inside": {"state_dict": state | {"harm": harm}},
        "key": {"state_dict": state, "x": {Call(tuple, (harm,)): 1}},
        "attribute": {"state_dict": state, "args": argparse.Namespace(a=[harm, {"b": harm}])},
        "nested": {"state_dict": state, "x": Call(list, Call(map, os.system, [f"touch {trace}"]))},
    }[place]
    torch.save(content, file, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read(file)
    assert torch.equal(entry(found)[0]["conv1.weight"], state["conv1.weight"])
    assert not trace.exists()
    torch.load(file, weights_only=False)  # the proof that it is malicious
    assert trace.exists()


def test_no_pickle_changes_what_reads_the_next_one(tmp_path):
    array = np.arange(3, dtype="<f4")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": array}))
    for state in ({"__code__": 1}, (None, {"__defaults__": (1,), "__code__": 1})):
        for name in (b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
                     b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n"):  # fmt: skip
            harm = b"\x80\x02" + name + pickle.dumps(state, 2)[2:-1] + b"b."
            (tmp_path / "harm.pkl").write_bytes(harm)
            with contextlib.suppress(ValueError):
                read(tmp_path / "harm.pkl")
    assert read(tmp_path / "a.pkl")["w"].tolist() == [0, 1, 2]
    assert np.dtype("<f4").itemsize == 4 and not OrderedDict(a=1).keys() - {"a"}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_whole_network_saved_as_an_object_is_refused_with_what_to_save(tmp_path, zipped):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"an object .* save its state_dict\(\); weights are"):
        read(tmp_path / "a.pt")


def test_a_program_of_torch_jit_and_a_compressed_archive_are_no_weights(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "jit.pt")
    # Python's zipfile takes this for no archive at all, and torch for the same one.
    hidden = (tmp_path / "jit.pt").read_bytes() + b"PK\x05\x06"
    (tmp_path / "hidden.pt").write_bytes(hidden)
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pt")
    bomb = zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name))
    for name in ("jit.pt", "hidden.pt", "bomb.pt"):
        with pytest.raises(ValueError, match="holds no weights that can be read without"):
            read(tmp_path / name)


@pytest.mark.parametrize("sizes", [(2**40,), (2**20, 2**20), (8,), (-1,), (4, 2)])
def test_a_tensor_that_claims_more_than_its_storage_is_refused(tmp_path, sizes):
    harm = torch.zeros(4)
    strides = (1,) if len(sizes) == 1 else (0, 1)
    arguments = (harm.storage(), 0, sizes, strides, False, OrderedDict())
    torch.save({"w": Call(torch._utils._rebuild_tensor_v2, *arguments)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds no weights") as refused:
        read(tmp_path / "a.pt")
    assert "does not lie in its storage" in str(refused.value.__cause__)


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
    content = entry(read(tmp_path / "R-50.pkl"))[0]
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
        assert torch.equal(entry(read(tmp_path / file))[0]["fc.weight"], state["fc.weight"])


def test_a_file_by_torch_may_be_called_a_pickle(tmp_path):
    torch.save({"a.weight": torch.eye(2)}, tmp_path / "saved.pkl")
    assert read(tmp_path / "saved.pkl")["a.weight"].equal(torch.eye(2))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_timm_has_its_weights_inside(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*model\.safetensors"):
        file_of(tmp_path)
    (tmp_path / name).write_text("weights")
    assert file_of(tmp_path) == tmp_path / name
