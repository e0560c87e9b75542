"""What filenames.py claims: one meaning of every name, whoever wrote it."""

import pytest

from residual.data.decode import FORMATS
from residual.data.filenames import (
    SUFFIXES,
    decoded,
    encoded,
    is_hidden,
    is_picture,
    lines_of,
    set_of,
    sets_among,
    shown,
)

TRAIN = "train Train TRAINING train_set train-set TrainData train2017 training_images trainval"
VAL = "val valid Valid validation VAL2017 dev val_images validation_set valid-split"
TEST = "test Test testing test_set test1 test2017 test-dev2017 TESTDATA"
NONE = "trains trainer steam_train cat device devil value tests testament contest validated set"


@pytest.mark.parametrize(("names", "meant"), [(TRAIN, "train"), (VAL, "val"), (TEST, "test")])
def test_sets_are_known_in_every_usual_spelling(names, meant):
    assert [name for name in names.split() if set_of(name) != meant] == []
    assert set_of(f"{meant} set") == meant


def test_words_that_only_begin_or_end_like_sets_are_none():
    assert [name for name in NONE.split() if set_of(name)] == []


def test_sets_come_in_order_and_two_names_of_one_set_are_refused():
    assert sets_among(["cat", "Testing", "Training", "valid"], "pets") == {
        "train": "Training",
        "val": "valid",
        "test": "Testing",
    }
    assert list(sets_among(["test", "dev", "train"], "")) == ["train", "val", "test"]
    for pair in (["Train", "train"], ["valid", "validation"]):
        with pytest.raises(ValueError, match=f"pets has {pair[0]} and {pair[1]}, and both are"):
            sets_among(["test", *pair], "pets")


def test_a_picture_is_told_by_its_ending_in_any_case_and_is_not_hidden():
    assert all(map(is_picture, ("a.jpg", "a.JPEG", "a.jpe", "a.JFIF", "a.b.bmp", "\udcff.PNG")))
    assert not any(map(is_picture, ("jpg", "a.txt", "._a.jpg", ".jpg", "a.jpg.partial", "a.heic")))
    assert all(map(is_hidden, ("._a.jpg", ".git", "__MACOSX", "@eaDir")))


def test_every_format_that_is_read_has_its_endings():
    assert {*FORMATS, "MPO"} == SUFFIXES.keys()


def test_a_name_that_is_no_utf8_is_kept_to_the_byte():
    raw = b"gl\xfchwein.jpg"
    assert encoded(decoded(raw)) == raw
    assert encoded("glühwein.jpg") == "glühwein.jpg".encode()


def test_odd_names_are_shown_by_their_repr():
    for plain in ("a.jpg", "für später.jpg", "a 'b'.jpg"):
        assert shown(plain) == plain
    for odd in ("a\n.jpg", " a", "a ", "\udcff", "a\x1b[31m", "\u202egpj.a", ""):
        assert shown(odd) == repr(odd)


ENTRIES = ["a b", "für.jpg", "c\x0cd", "it's"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\0"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_list_reads_alike_whoever_wrote_it(end, mark):
    assert list(lines_of(mark + end.join(ENTRIES).encode())) == ENTRIES
    assert list(lines_of(mark + "".join(each + end for each in ENTRIES).encode())) == ENTRIES
    assert list(lines_of(mark + (end + end).join(ENTRIES).encode())) == ENTRIES


def test_a_list_may_be_quoted_indented_and_in_utf16():
    assert list(lines_of(b'"a b"\r\n  \'c\'\t\n"\n')) == ["a b", "c", '"']
    assert list(lines_of("\ufeffa b\r\nfür.jpg\r\n".encode("utf-16-le"))) == ["a b", "für.jpg"]
    assert list(lines_of(b"a\xff\n")) == ["a\udcff"]
    assert list(lines_of(b" a\0b\n")) == [" a", "b"]
