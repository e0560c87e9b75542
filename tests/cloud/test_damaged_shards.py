"""Whatever is in packed data, reading it ends, with pictures or with a sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("streaming", reason="needs the extra `cloud`: make test-cloud")

from made_damage import FUZZ, as_bytes, changed, damaged, watched

from residual.data.loader import read_crops
from residual.data.packed import CONTENTS_FILE, open_packed

pytest_plugins = "made_photographs"  # folder, packed
pytestmark = pytest.mark.filterwarnings("ignore")  # of Pillow's at damaged pictures


@pytest.fixture(scope="module")
def copy(packed, tmp_path_factory) -> Path:
    return Path(shutil.copytree(packed, tmp_path_factory.mktemp("damaged") / "copy"))


def all_read(copy: Path) -> None:
    """Every picture of a set, whole and in part; the damage of one does not hide another's."""
    train = open_packed(str(copy), copy.parent).train
    for i in range(len(train)):
        with watched(10_000_000, str(copy)):
            assert train.image(i).size


@FUZZ
@given(data=st.data())
def test_packed_data_with_other_contents(packed, copy, data):
    own = json.loads((packed / CONTENTS_FILE).read_text())
    raw = data.draw(st.one_of(changed(own).map(as_bytes), damaged([as_bytes(own)], [])))
    (copy / CONTENTS_FILE).write_bytes(raw)
    with watched(len(raw), CONTENTS_FILE):
        all_read(copy)
    shutil.copy(packed / CONTENTS_FILE, copy / CONTENTS_FILE)


def test_a_picture_with_a_damaged_record_is_left_out_and_named_by_its_number(packed, copy):
    file = copy / "train" / "shard.00000.mds"
    raw = bytearray(file.read_bytes())
    begin, end = np.frombuffer(raw, np.uint32, 2, offset=4)  # behind the number of records
    raw[begin:end] = b"\xff" * (end - begin)
    file.write_bytes(raw)
    train = open_packed(str(copy), copy.parent).train
    first = train.indices.tolist().index(0)
    tasks = [([first, 1 - min(first, 1)], [0, 0])]
    [result] = read_crops(train, lambda image, *key: [np.zeros(1)], tasks, 0)
    assert [len(crops) for crops in result.shapes] == [0, 1]
    [(name, reason)] = result.damaged
    assert name == "picture 0" and "shard.00000.mds" in reason
    shutil.copy(packed / "train" / "shard.00000.mds", file)


@FUZZ
@given(data=st.data())
def test_a_shard_with_other_bytes(packed, copy, data):
    file = Path("train", "shard.00000.mds")
    whole = (packed / file).read_bytes()
    raw = data.draw(damaged([whole], []))
    same = data.draw(st.booleans())  # as many bytes as were packed, as a bad disk gives them
    (copy / file).write_bytes((raw + whole[len(raw) :])[: len(whole)] if same else raw)
    with watched(len(whole), str(copy)):
        all_read(copy)
    shutil.copy(packed / file, copy / file)
