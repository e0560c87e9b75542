"""ImageNet's labels are the same, whatever program wrote their files."""

import io
import tarfile
from pathlib import Path

import pytest
from made_imagenet import KIT, LISTS, TRUTH, VAL, WORDS, meta, write

from residual.preparation.imagenet import SOLUTION, Labels, devkit_labels, read_labels
from residual.preparation.imagenet import TRUTH as TRUTH_FILE

pytestmark = pytest.mark.usefixtures("quick_reader")
LISTS_RAW = {name: text.encode() for name, text in LISTS.items()}


def labels_of(folder: Path, files: dict[str, bytes]) -> Labels:
    write(folder, files)
    return read_labels(folder, folder / "none")


def rewritten(files: dict[str, bytes], end: str, mark: str, form: str) -> dict[str, bytes]:
    """The text files as another program writes them."""
    texts = {name: raw.decode() for name, raw in files.items() if not name.endswith(".mat")}
    return files | {
        name: (mark + text.replace("\n", end)).encode(form) for name, text in texts.items()
    }


@pytest.mark.parametrize("files", [KIT, LISTS_RAW], ids=["devkit", "kaggle"])
@pytest.mark.parametrize(
    ("end", "mark", "form"),
    [("\n", "\ufeff", "utf-8"), ("\r\n", "", "utf-8"), ("\r", "", "utf-16")],
)
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path, files, end, mark, form):
    found = labels_of(tmp_path / "a", rewritten(files, end, mark, form))
    assert found == labels_of(tmp_path / "b", files)
    assert (found.words, found.val) == (WORDS, VAL)


def test_only_files_of_the_devkit_are_read(tmp_path, monkeypatch):
    monkeypatch.undo()  # the reader's process is spawned, as for users
    with tarfile.open(tmp_path / "kit.tar.gz", "w:gz") as archive:
        for name, raw in KIT.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
        link = tarfile.TarInfo(f"links/{TRUTH_FILE}")
        link.type, link.linkname = tarfile.SYMTYPE, "nothing"
        archive.addfile(link)
    assert read_labels(tmp_path, tmp_path / "kit.tar.gz").val == VAL


def test_kaggles_lists_may_be_quoted(tmp_path):
    quoted = "".join(f'"{word}","{rest}"\n' for word, _, rest in (
        line.partition(",") for line in LISTS[SOLUTION].splitlines()
    ))  # fmt: skip
    synsets = "".join(f'"{wnid} {words}"\n' for wnid, words in WORDS.items())
    files = {SOLUTION: quoted.encode(), "LOC_synset_mapping.txt": synsets.encode()}
    assert labels_of(tmp_path, files) == labels_of(tmp_path / "plain", LISTS_RAW)


def test_a_list_that_is_none_is_named_in_a_sentence(tmp_path):
    for text in ("ImageId,Answer\na,b\n", "ImageId,PredictionString\na,\n"):
        with pytest.raises(ValueError, match=r"LOC_val_solution\.csv is damaged: it needs columns"):
            labels_of(tmp_path, {SOLUTION: text.encode()})
    for number in ("5", "cat", "-1"):
        text = "\n".join(map(str, TRUTH)) + f"\n{number}\n"
        with pytest.raises(ValueError, match=f"{TRUTH_FILE} is damaged: '{number}' is no number"):
            devkit_labels(meta(), text.encode())
