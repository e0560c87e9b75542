"""What prediction.py and `residual predict` claim: a bad picture costs no other its answer."""

import gc
import os
import shutil
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import residual
from residual.data.decode import decode
from residual.data.sources import digits
from residual.export import engine as engines
from residual.export import predict
from residual.export.engine import onnxruntime_engine
from residual.export.onnx_file import open_file
from residual.export.predict import answers, classifier, exported_classifier
from residual.tasks.classification.load import load


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Two digits as pictures, a text that is called one, and one that is not there."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(2):
        pixels = digits().test.pixels[i].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "text.jpg").write_text("no picture")
    return [folder / "0.png", folder / "text.jpg", folder / "none.png", folder / "1.png"]


def test_a_digit_as_a_picture_is_answered_as_the_digit_in_memory(finished, photos):
    trained = load(finished)
    for i, photo in enumerate((photos[0], photos[3])):
        (answer,) = residual.predict(trained, [photo], top=3)
        x = trained.preprocessing(digits().test.pixels[i : i + 1])
        expected = trained.net(x).detach().softmax(dim=1)[0].topk(3)
        assert [label["label"] for label in answer["labels"]] == [
            trained.classes[place] for place in expected.indices
        ]
        given = [label["probability"] for label in answer["labels"]]
        assert given == pytest.approx(expected.values.tolist(), abs=1e-6)


def test_a_bad_picture_is_named_and_the_others_are_answered(finished, photos):
    first, text, none, second = residual.predict(finished, photos)
    for answer, photo in zip((first, text, none, second), photos, strict=True):
        assert answer["image"] == str(photo)
    for answer in (first, second):
        assert answer.keys() == {"image", "labels"}
        assert len(answer["labels"]) == 5
        assert all(label.keys() == {"label", "probability"} for label in answer["labels"])
        given = [label["probability"] for label in answer["labels"]]
        assert given == sorted(given, reverse=True)
        assert sum(given) <= 1 + 1e-6
    for answer in (text, none):
        assert answer.keys() == {"image", "error"}
        assert answer["image"] in answer["error"]


def test_all_labels_together_have_the_probability_1(finished, photos):
    (answer,) = residual.predict(finished, photos[:1], top=99)
    assert sorted(label["label"] for label in answer["labels"]) == list(digits().classes)
    assert sum(label["probability"] for label in answer["labels"]) == pytest.approx(1, abs=1e-6)


def test_a_picture_of_any_size_and_mode_is_brought_to_the_network_s(finished, tmp_path):
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (30, 50)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "grey.png")
    trained = load(finished)
    (answer,) = residual.predict(trained, [tmp_path / "grey.png"], top=1)
    pixels = decode(tmp_path / "grey.png", (8, 8))
    scores = trained.net(trained.preprocessing(pixels[None]))
    assert answer["labels"][0]["label"] == trained.classes[int(scores.argmax())]


def test_the_command_answers_what_it_can_and_ends_with_status_1(command, finished, photos):
    answer = command("predict", finished, *photos, "--json", "--threads", 1)
    assert answer.status == 1
    assert [sorted(each) for each in answer.json] == [
        ["image", "labels"], ["error", "image"], ["error", "image"], ["image", "labels"]
    ]  # fmt: skip
    complaints = answer.err.splitlines()
    assert len(complaints) == 2
    assert "text.jpg is no picture" in complaints[0]
    assert "none.png" in complaints[1]


def test_the_command_says_labels_and_probabilities_in_words(command, finished, photos):
    answer = command("predict", finished, photos[0], photos[3], "--top", 2, "--threads", 1)
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert len(lines) == 2
    assert all(line.count(" %") == 2 for line in lines)


def test_a_file_of_weights_predicts_as_its_run_does(finished, photos):
    (file,) = sorted((finished / "checkpoints").iterdir())[-1:]
    with torch.inference_mode():
        assert residual.predict(file, photos[:1]) == residual.predict(finished, photos[:1])


def test_one_picture_need_not_be_in_a_list(finished, photos):
    assert residual.predict(finished, photos[0]) == residual.predict(finished, [photos[0]])
    assert residual.predict(finished, str(photos[0])) == residual.predict(finished, [photos[0]])


def answers_alike(trained, pictures, expected) -> None:
    """Pictures in memory have the answers of their files."""
    found = residual.predict(trained, pictures)
    assert [each["labels"] for each in found] == [each["labels"] for each in expected]
    assert [each["image"] for each in found] == [f"image {i}" for i in range(len(found))]


@pytest.mark.parametrize("shape", [(20, 31, 3), (8, 8, 3), (20, 31), (20, 31, 1), (20, 31, 4)])
def test_a_picture_in_memory_is_answered_as_in_a_lossless_file(finished, tmp_path, shape):
    trained, draw = load(finished), np.random.default_rng(0)
    arrays = [draw.integers(0, 256, shape, dtype=np.uint8) for _ in range(3)]
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for array, file in zip(arrays, files, strict=True):
        Image.fromarray(array.squeeze()).save(file)
    expected, one = (residual.predict(trained, some) for some in (files, files[:1]))
    answers_alike(trained, arrays, expected)
    answers_alike(trained, arrays[0], one)
    answers_alike(trained, [array[::-1, ::-1][::-1, ::-1] for array in arrays], expected)
    answers_alike(trained, [Image.open(file) for file in files], expected)
    answers_alike(trained, Image.open(files[0]), one)
    tensors = [torch.from_numpy(array) for array in arrays]
    tensors = [each.movedim(-1, 0) if each.ndim == 3 else each for each in tensors]
    answers_alike(trained, tensors, expected)
    answers_alike(trained, tensors[0], one)
    if len(shape) == 3:
        answers_alike(trained, np.stack(arrays), expected)
        answers_alike(trained, torch.stack(tensors), expected)


def test_an_image_of_pillow_is_seen_as_its_file_and_stays_as_it_is(finished, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.default_rng(1).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "turned.png", exif=exif)
    image = Image.open(tmp_path / "turned.png")
    trained = load(finished)
    answers_alike(trained, image, residual.predict(trained, [tmp_path / "turned.png"]))
    assert image.size == (31, 20)
    assert image.getexif()[0x0112] == 6


def test_paths_and_pictures_in_memory_may_be_mixed(finished, photos):
    found = residual.predict(finished, [photos[0], Image.open(photos[0]), photos[1]])
    assert [each["image"] for each in found] == [str(photos[0]), "image 1", str(photos[1])]
    assert found[0]["labels"] == found[1]["labels"]


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (np.zeros((8, 8, 3), np.float32), r"8-bit values \(uint8\), and not float32"),
        (torch.zeros(3, 8, 8), r"8-bit values \(uint8\), and not float32"),
        (torch.zeros(3, 8, 8, requires_grad=True), "and not float32"),
        (torch.zeros(3, 8, 8, dtype=torch.bfloat16), r"and not bfloat16 of shape \(3, 8, 8\)"),
        (np.zeros((8, 0, 3), np.uint8), r"of shape \(8, 0, 3\)"),
        (np.zeros((3, 8, 8), np.uint8), r"no picture has the shape \(3, 8, 8\): an array is"),
        (np.zeros(8, np.uint8), r"no picture has the shape \(8,\)"),
        ([8], "int is no picture: give a path"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(finished, picture, why):
    with pytest.raises(ValueError, match=why):
        residual.predict(finished, picture)


def test_both_engines_answer_many_pictures_alike(command, finished, tmp_path):
    draw = np.random.default_rng(0)
    for i in range(19):
        noise = draw.integers(0, 256, (9, 11 + i, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i:02}.png")
    (tmp_path / "05.png").write_text("no picture")
    (tmp_path / "notes.txt").write_text("not even called one")
    plain = [residual.predict(finished, [each])[0] for each in sorted(tmp_path.glob("*.png"))]
    for engine, words in (("torch", tmp_path), ("onnxruntime", tmp_path / "*.png")):
        answer = command("predict", finished, words, "--json", "--engine", engine, "--threads", 1)
        assert answer.status == 1 and "05.png is no picture" in answer.err
        for mine, other in zip(answer.json, plain, strict=True):
            assert mine["image"] == other["image"]
            best, expected = mine.get("labels", []), other.get("labels", [])
            assert [x["label"] for x in best] == [x["label"] for x in expected]
            assert [x["probability"] for x in best] == pytest.approx(
                [x["probability"] for x in expected], abs=1e-5
            )


def test_a_folder_or_a_pattern_without_pictures_is_said(command, finished, tmp_path):
    assert "holds no pictures" in command("predict", finished, tmp_path).complaint
    assert "no picture fits *.jpg" in command("predict", finished, "*.jpg", cwd=tmp_path).complaint


def test_a_list_of_pictures_is_read_from_stdin(command, finished, photos):
    names = f"{photos[0]}\n\n{photos[1]}\n".encode()
    done = command("predict", finished, "-", photos[3], "--top", 1, stdin=names)
    assert done.status == 1 and "text.jpg is no picture" in done.err
    answered = [line.split(":")[0] for line in done.out.splitlines()]
    assert answered == [str(photos[0]), str(photos[3])]


@pytest.mark.parametrize("end", [b"\r\n", b"\0", b"\n"])
def test_a_list_of_another_program_is_read_from_stdin(command, finished, photos, tmp_path, end):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff a.png"))
    shutil.copy(photos[0], odd)
    quoted = b'"%b"' % os.fsencode(photos[3]) if end != b"\0" else os.fsencode(photos[3])
    names = end.join([os.fsencode(odd), quoted, b""])
    done = command("predict", finished, "-", "--top", 1, stdin=names)
    assert (done.status, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith(repr(str(odd)) + ": ")
    assert second.startswith(f"{photos[3]}: ")


def test_what_is_hidden_in_a_folder_is_no_picture_of_it(command, finished, photos, tmp_path):
    names = ("more.png", "B.PNG", "._a.png", ".hidden/a.png", "__MACOSX/a.png", "more/c.png")
    for name in (*names, "more-2/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(photos[0], tmp_path / name)
    (tmp_path / "more" / "up").symlink_to("..")
    answer = command("predict", finished, tmp_path, "--json", "--threads", 1)
    found = [Path(each["image"]).relative_to(tmp_path).as_posix() for each in answer.json]
    assert found == ["B.PNG", "more/c.png", "more-2/d.png", "more.png"]  # folder by folder
    assert answer.status == 0


def test_answers_come_before_the_list_has_ended(finished, photos):
    def endless():
        while True:
            yield photos[0]

    found = answers(classifier(load(finished)), endless(), top=1, batch=2)
    assert [next(found)["image"] for _ in range(5)] == [str(photos[0])] * 5


def test_the_network_is_let_go_once_an_engine_has_its_weights(finished, photos, monkeypatch):
    handed: list[weakref.ref] = []

    plain = engines.session_model
    monkeypatch.setattr(engines, "session_model", lambda trained: noted(*plain(trained)))

    def noted(content, large):
        handed.extend(map(weakref.ref, large.values()))
        return content, large

    loaded = [load(finished)]
    network = weakref.ref(loaded[0].net)
    model = classifier(loaded.pop(), partial(onnxruntime_engine, threads=1))
    found = answers(model, photos, top=1)
    gc.disable()
    try:
        next(found)
        assert network() is None
        assert handed and not any(each() is not None for each in handed)
    finally:
        gc.enable()


def test_engines_that_do_not_fit_the_command_line_are_wrong_usage(command, finished, photos):
    for words in (("--engine", "x"), ("--engine", "onnxruntime", "--precision", "bf16")):
        assert command("predict", finished, photos[0], *words).status == 2


@pytest.mark.parametrize("form", ["inside", "outside"])
def test_an_exported_file_predicts_as_its_run_does(command, finished, photos, form, tmp_path):
    out, words = tmp_path / "net.onnx", ("--json", "--top", 3)
    assert command("export", finished, "--out", out, "--preprocessing", form).status == 0
    answer, expected = (command("predict", path, *photos, *words) for path in (out, finished))
    assert answer.status == 1 and answer.err == expected.err  # the damaged ones
    for row, other in zip(answer.json, expected.json, strict=True):
        assert row.keys() == other.keys() and row["image"] == other["image"]
        for x, y in zip(row.get("labels", []), other.get("labels", []), strict=True):
            assert x["label"] == y["label"] and abs(x["probability"] - y["probability"]) < 1e-4


def test_large_pictures_enter_an_exported_file_in_parts(command, finished, tmp_path, monkeypatch):
    out, sizes = tmp_path / "net.onnx", list[tuple[int, ...]]()
    assert command("export", finished, "--out", out).status == 0
    file = open_file(out, 1)
    rows = exported_classifier(file)
    inputs = [torch.full((20, 30, 3), value, dtype=torch.uint8) for value in (0, 99, 200)]
    expected = rows.probabilities(inputs)

    class Session:
        def run(self, _, feed):
            sizes.append(feed["image"].shape)
            return file.session.run(None, feed)

    monkeypatch.setattr(predict, "PIXELS_AT_ONCE", 1_200)
    parts = exported_classifier(replace(file, session=Session())).probabilities(inputs)
    assert sizes == [(2, 20, 30, 3), (1, 20, 30, 3)]
    assert torch.allclose(parts, expected, atol=1e-6) and len({*parts[:, 0].tolist()}) == 3


def test_what_an_exported_file_cannot_do_is_wrong_usage(command, finished, photos, tmp_path):
    out = tmp_path / "net.onnx"
    assert command("export", finished, "--out", out).status == 0
    for words in (("--engine", "torch"), ("--precision", "bf16")):
        assert command("predict", out, photos[0], *words).status == 2
    (tmp_path / "cut.onnx").write_bytes(out.read_bytes()[:999])
    complaint = command("predict", tmp_path / "cut.onnx", photos[0]).complaint
    assert "cut.onnx is damaged or is no ONNX model" in complaint
    assert "no file" in command("predict", tmp_path / "none.onnx", photos[0]).complaint
    assert "no objects" in command("detect", "predict", out, photos[0]).complaint
