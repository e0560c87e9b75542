"""Whatever is in packed data, reading it ends, with pictures or with a sentence."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("streaming", reason="needs the extra `cloud`: make test-cloud")

from made_damage import FUZZ, as_bytes, changed, damaged, watched

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
