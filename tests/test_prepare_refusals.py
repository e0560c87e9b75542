"""What prepare.py refuses, and what it does not believe of an archive."""

import pytest
from made_imagenet import (
    SMALL,
    official,
    tar,
    write,
)

from residual.preparation.imagenet import imagenet


def test_a_folder_without_imagenet_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        imagenet(tmp_path / "nowhere")
    write(tmp_path, {"train/cat/1.jpg": b"1", "val/cat/2.jpg": b"2"})
    with pytest.raises(ValueError, match=r"holds no ImageNet; looked for ILSVRC2012_img_train\.ta"):
        imagenet(tmp_path)


def test_names_in_an_archive_cannot_leave_the_target(tmp_path):
    archives = official(tmp_path / "source")
    tar(tmp_path / "inner", {"../../../../escaped.JPEG": b"x", "/tmp/n.JPEG": b"y"})
    inner = {"../n00000001.tar": (tmp_path / "inner").read_bytes(), "evil.tar": b"", "../x": b""}
    checksum = tar(tmp_path / "source" / archives["train"][0], inner)
    archives["train"] = (archives["train"][0], checksum)
    imagenet(tmp_path / "source", tmp_path / "a" / "b" / "target", SMALL, archives)
    made = {path.name for path in (tmp_path / "a" / "b" / "target" / "train").rglob("*.JPEG")}
    assert made == {"escaped.JPEG", "n.JPEG"}
    assert not [path for path in tmp_path.rglob("escaped.JPEG") if "n00000001" not in str(path)]
