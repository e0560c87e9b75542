"""Claims of file names: one meaning of every name, whoever wrote it."""

import pytest

from residual.data.decode import FORMATS
from residual.data.folder_index import FORMAT_SUFFIXES, is_hidden, is_image, split_name, split_names
from residual.storage import decode_name, display_name, encode_name, parse_list

TRAIN = "train Train TRAINING train_set train-set TrainData train2017 training_images trainval"
VAL = "val valid Valid validation VAL2017 dev val_images validation_set valid-split"
TEST = "test Test testing test_set test1 test2017 test-dev2017 TESTDATA"
NONE = "trains trainer steam_train cat device devil value tests testament contest validated set"


@pytest.mark.parametrize(("names", "meant"), [(TRAIN, "train"), (VAL, "val"), (TEST, "test")])
def test_sets_are_known_in_every_usual_spelling(names, meant):
    assert [name for name in names.split() if split_name(name) != meant] == []
    assert split_name(f"{meant} set") == meant


def test_words_that_only_begin_or_end_like_sets_are_none():
    assert [name for name in NONE.split() if split_name(name)] == []


def test_sets_come_in_order_and_two_names_of_one_set_are_refused():
    assert split_names(["cat", "Testing", "Training", "valid"], "pets") == {
        "train": "Training",
        "val": "valid",
        "test": "Testing",
    }
    assert list(split_names(["test", "dev", "train"], "")) == ["train", "val", "test"]
    for pair in (["Train", "train"], ["valid", "validation"]):
        with pytest.raises(ValueError, match=f"pets has {pair[0]} and {pair[1]}, and both are"):
            split_names(["test", *pair], "pets")


def test_a_picture_is_told_by_its_ending_in_any_case_and_is_not_hidden():
    assert all(map(is_image, ("a.jpg", "a.JPEG", "a.jpe", "a.JFIF", "a.b.bmp", "\udcff.PNG")))
    assert not any(map(is_image, ("jpg", "a.txt", "._a.jpg", ".jpg", "a.jpg.partial", "a.heic")))
    assert all(map(is_hidden, ("._a.jpg", ".git", "__MACOSX", "@eaDir")))


def test_every_format_that_is_read_has_its_endings():
    assert {*FORMATS, "MPO"} == FORMAT_SUFFIXES.keys()


def test_a_name_that_is_no_utf8_is_kept_to_the_byte():
    raw = b"gl\xfchwein.jpg"
    assert encode_name(decode_name(raw)) == raw
    assert encode_name("glühwein.jpg") == "glühwein.jpg".encode()


def test_odd_names_are_shown_by_their_repr():
    for plain in ("a.jpg", "für später.jpg", "a 'b'.jpg"):
        assert display_name(plain) == plain
    for odd in ("a\n.jpg", " a", "a ", "\udcff", "a\x1b[31m", "\u202egpj.a", ""):
        assert display_name(odd) == repr(odd)


ENTRIES = ["a b", "für.jpg", "c\x0cd", "it's"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\0"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_list_reads_alike_whoever_wrote_it(end, mark):
    assert list(parse_list(mark + end.join(ENTRIES).encode())) == ENTRIES
    assert list(parse_list(mark + "".join(each + end for each in ENTRIES).encode())) == ENTRIES
    assert list(parse_list(mark + (end + end).join(ENTRIES).encode())) == ENTRIES


def test_a_list_may_be_quoted_indented_and_in_utf16():
    assert list(parse_list(b'"a b"\r\n  \'c\'\t\n"\n')) == ["a b", "c", '"']
    assert list(parse_list("\ufeffa b\r\nfür.jpg\r\n".encode("utf-16-le"))) == ["a b", "für.jpg"]
    assert list(parse_list(b"a\xff\n")) == ["a\udcff"]
    assert list(parse_list(b" a\0b\n")) == [" a", "b"]
