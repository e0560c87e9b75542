"""Whatever is in a file from elsewhere, reading it ends, with its content or with a sentence.

A short fuzz, the same each time; `make fuzz` takes longer and other examples each time.
"""

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_annotations import coco_folder, voc_year
from made_damage import FUZZ, LONGER, as_bytes, changed, damaged, watched
from made_imagenet import KIT, LISTS, meta
from PIL import Image
from safetensors.torch import save
from test_sources import N, new_pickle, old_pickle, records

from residual.data import sources
from residual.data.decode import decode, inspect_image
from residual.data.packed import CONTENTS_FILE, RestartJpeg, read_contents
from residual.models.registry import build
from residual.preparation.imagenet import read_labels
from residual.runs import folder
from residual.storage import parse_list
from residual.tasks.classification.load import load, read_recipe
from residual.tasks.classification.recipe import RECIPES
from residual.tasks.detection import load as detectors
from residual.tasks.detection.annotations import read_header
from residual.tasks.detection.datasets import load as scenes
from residual.training import checkpoint
from residual.training.recipe import to_json
from residual.weights import caffe
from residual.weights.convert import convert
from residual.weights.files import entry, read
from residual.weights.published import config_of
from tests import release

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of Pillow's at damaged pictures
    pytest.mark.usefixtures("quick_reader"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def put(file: Path, raw: bytes) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(raw)
    return len(raw)


# ---- pictures -----------------------------------------------------------------------------------


def picture(form: str, mode: str = "RGB", **words: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (24, 20, 4), dtype=np.uint8)
    image, file = Image.fromarray(noise, "RGBA").convert(mode), io.BytesIO()
    image.save(file, form, **words)
    return file.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned
PICTURES = [
    *(picture("JPEG"), picture("JPEG", "L"), picture("JPEG", "CMYK"), picture("JPEG", exif=EXIF)),
    *(picture("JPEG", progressive=True), picture("PNG", "P"), picture("PNG", "RGBA")),
    *(picture("PNG", "I;16"), picture("TIFF", "I;16"), picture("TIFF", "F"), picture("BMP")),
    *(picture("TIFF", compression="tiff_lzw"), picture("WEBP"), picture("PPM")),
    picture("GIF", "P", save_all=True, append_images=[Image.new("P", (9, 9))]),
]


@FUZZ
@given(damaged(PICTURES, [b"\xff\xd8\xff\xc0", b"IDAT", b"acTL", b"\xff\xda"]))
def test_a_picture(place, raw):
    with watched(put(place / "picture", raw), "picture"):
        read_header(place / "picture")
    with watched(len(raw) + 3 * 1_000_000, "the picture"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("residual.data.decode.MAX_PIXELS", 1_000_000)
        assert decode(raw).shape[0] == 3
    with watched(len(raw) + 3 * 1_000_000, "the picture"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("residual.data.decode.MAX_PIXELS", 1_000_000)
        inspect_image(raw)


@FUZZ
@given(damaged([picture("JPEG", restart_marker_blocks=1)], [b"\xff\xd0", b"\xff\xc0"]),
       st.sampled_from([0, 1, 2, 3, 2**40]))  # fmt: skip
def test_a_packed_jpeg_of_which_a_part_is_decoded(raw, interval):
    with watched(len(raw), "the picture"):
        RestartJpeg(raw, interval).part(3, 3, 9, 9)
    with watched(len(raw), "the picture"):
        assert RestartJpeg(raw, interval).pixels.shape[2] == 3


# ---- boxes and lists ----------------------------------------------------------------------------


@FUZZ
@given(damaged([b"a.jpg\r\nb.jpg 1\n", b"\xff\xfea\0\n\0", b"'a'\0\"b\"\0"], []))
def test_a_list_of_names(raw):
    with watched(len(raw), ""):
        assert "" not in list(parse_list(raw))


@pytest.fixture(scope="module")
def year(place) -> Path:
    return voc_year(place / "VOC2007")


BOMB = b'<!DOCTYPE a [<!ENTITY b "bb">' + b"".join(
    b'<!ENTITY c%d "%s">' % (i, b"&b;" * 100) for i in range(9)) + b"]>"  # fmt: skip


@FUZZ
@given(st.data())
def test_an_annotation_of_voc(year, data):
    file = year / "Annotations" / "000001.xml"
    whole = (year / "Annotations" / "000003.xml").read_bytes()
    parts = [BOMB, b"<object>" * 9_000, b"&c;", b"&#1114112;", b"<![CDATA["]
    parts += [b'<?xml version="1.0" encoding="utf-7"?>']
    raw = data.draw(damaged([whole, BOMB + whole], parts))
    length = put(file, raw)
    with watched(length, ""):
        scenes(year, "train")


@FUZZ
@given(st.data())
def test_a_list_of_voc(year, data):
    raw = data.draw(damaged([b"000001\n000003\n"], [b"../"]))
    length = put(year / "ImageSets/Main/fuzz.txt", raw)
    with watched(length, ""):
        scenes(year, "fuzz")


@pytest.fixture(scope="module")
def pictures(place) -> Path:
    return coco_folder(place / "coco")


@FUZZ
@given(st.data())
def test_annotations_of_coco(pictures, data):
    file = next((pictures / "annotations").glob("*train*.json"))
    whole = WHOLE.setdefault(file, file.read_bytes())
    shape = changed(json.loads(whole)).map(as_bytes)
    length = put(file, data.draw(st.one_of(shape, damaged([whole], [b'"bbox": [1e999,']))))
    with watched(length, ""):
        scenes(pictures, file.stem.removeprefix("instances_"))


WHOLE: dict[Path, bytes] = {}

# ---- weights ------------------------------------------------------------------------------------

STATE = {"conv1.weight": torch.ones(4, 3, 2, 2), "bn1.num_batches_tracked": torch.tensor(3)}


def saved(value: object, **words: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **words)
    return file.getvalue()


CHECKPOINT = {"model": STATE, "args": {"lr": 0.1}, "epoch": 3, "half": torch.ones(2).half()}
LAYERS = {"conv1": [torch.ones(4, 3, 2, 2), torch.ones(4)], "fc1000": [torch.ones(5, 4)]}
PICKLE_PARTS = [b"(l" * 9_000 + b".", b"]" + b"(" * 9_000, b"r\xff\xff\xff\x7f"]
PICKLE_PARTS += [b"\x96" + (2**35).to_bytes(8, "little"), b"\x8d" + (2**60).to_bytes(8, "little")]
PICKLE_PARTS += [b"cos\nsystem\n(S'true'\ntR", b"cbuiltins\neval\n"]
PICKLE_PARTS += [b"]q\0(h\0h\0h\0h\0e", b"\x8e\xff\xff\xff\xff\xff\0\0\0", b"Nb", b"}}}s", b"Q"]
FILES = {
    "a.safetensors": ([save(STATE), save({"x": torch.ones(1)}, {"a": "b"})], [b'"dtype":"F32"']),
    "a.pth": ([saved(CHECKPOINT), saved(STATE)], PICKLE_PARTS),
    "old.pth": ([saved(CHECKPOINT, _use_new_zipfile_serialization=False)], PICKLE_PARTS),
    "a.pkl": ([pickle.dumps({"blobs": {k: v.numpy() for k, v in STATE.items()}}, protocol=p)
               for p in (2, 4, 5)], PICKLE_PARTS),
    "a.caffemodel": ([release.caffemodel(LAYERS)], [b"\xff" * 9 + b"\x7f"]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "raw"), [
    ("a.pkl", b"\x80\x05\x96" + (2**35).to_bytes(8, "little") + b"."),  # so many bytes
    ("a.pkl", b"\x80\x05]r\xff\xff\xff\x7f."),  # a list to be remembered as number 2**31 - 1
    ("a.pkl", b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b"."),  # lists in lists
    ("a.pkl", b"\x80\x02}q\x00X\x05\0\0\0blobsq\x01h\0s."),  # it holds itself
    ("a.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
    ("a.safetensors", (70).to_bytes(8, "little")
     + b'{"a":{"dtype":"F32","shape":[1073741824,9],"data_offsets":[0,4]}}     ' + b"\0" * 4),
    ("a.caffemodel", b"\xa2\x06\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
])  # fmt: skip
def test_a_small_file_that_claims_much_takes_little(place, name, raw):
    with watched(put(place / name, raw), name):
        entry(read(place / name))


@pytest.mark.parametrize("name", FILES)
@FUZZ
@given(data=st.data())
def test_weights_of_another_program(place, name, data):
    length = put(place / name, data.draw(damaged(*FILES[name])))
    with watched(length, name):
        content = read(place / name)
        with watched(length, ""):
            entry(content)
            convert(content, "resnet18")


@FUZZ
@given(damaged([release.blob(torch.ones(1, 3, 4, 5))], []))
def test_a_mean_image(place, raw):
    with watched(put(place / "mean.binaryproto", raw), "mean.binaryproto"):
        assert caffe.read_mean(place / "mean.binaryproto").shape[0] == 3


TIMM = {"architecture": "resnet18", "num_classes": 2, "label_names": ["a", "b"], "pretrained_cfg": {
    "input_size": [3, 224, 224], "test_input_size": [3, 288, 288], "crop_pct": 0.9,
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"}}  # fmt: skip
FACES = {"model_type": "resnet", "id2label": {"0": "a"}, "downsample_in_bottleneck": True}
VIEW = {"size": {"shortest_edge": 224}, "crop_pct": 0.875}
VIEW |= {"image_mean": [0.5] * 3, "image_std": [1] * 3}


@FUZZ
@given(st.one_of(changed(TIMM), changed(FACES)), st.one_of(st.just(VIEW), changed(VIEW)))
def test_what_is_said_beside_weights(place, config, view):
    own = place / "beside"
    put(own / "model.safetensors", b"any")
    length = put(own / "preprocessor_config.json", as_bytes(view))
    length += put(own / "config.json", as_bytes(config))
    with watched(length, "config.json"):
        card = config_of(own / "model.safetensors")
        assert card is None or all(type(side) is int and side > 0 for side in card.size)


# ---- what this program wrote --------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpointed() -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """The tensors and the header of a network as a checkpoint has them."""
    tensors = {f"net.{name}": tensor for name, tensor in build("resnet8").state_dict().items()}
    tensors |= {f"preprocessing.{name}": torch.ones(3, 1, 1) for name in ("mean", "std")}
    header = {"network": "resnet8", "classes": list("abcdefghij"), "size": [32, 32]}
    return tensors, header | {"step": 3, "recipe": to_json(RECIPES["cifar"]), "shorter": None}


@FUZZ
@given(data=st.data())
def test_a_checkpoint_with_another_header(place, checkpointed, data):
    tensors, header = checkpointed
    header = data.draw(changed(header))
    file = place / "checkpoint.safetensors"
    if not isinstance(header, dict) or "format" in header:
        return
    try:
        checkpoint.save(file, tensors, header)
    except (ValueError, TypeError):  # it cannot even be written
        return
    with watched(file.stat().st_size, str(file)):
        assert load(file).net is not None
    with watched(file.stat().st_size, str(file)):
        detectors.load(file)
    folder.is_detection(file)


@FUZZ
@given(data=st.data())
def test_a_damaged_checkpoint(place, data):
    file = place / "small.safetensors"
    if file not in WHOLE:
        checkpoint.save(file, {"net.a": torch.ones(3)}, {"network": "resnet8", "classes": None})
        WHOLE[file] = file.read_bytes()
    length = put(file, data.draw(damaged([WHOLE[file]], [b'"__metadata__":{"checksum":"'])))
    with watched(length, str(file)):
        load(file)
    folder.is_detection(file)


@FUZZ
@given(data=st.data())
def test_the_recipe_of_a_run(place, data):
    own = to_json(RECIPES["cifar"]) | {"format": 1}
    raw = data.draw(st.one_of(changed(own).map(as_bytes), damaged([as_bytes(own)], [])))
    length = put(place / "run" / "recipe.json", raw)
    with watched(length, str(place / "run")):
        read_recipe(place / "run")
    with watched(length, str(place / "run")):
        detectors.read_recipe(place / "run")


@FUZZ
@given(data=st.data())
def test_the_log_of_a_run(place, data):
    line = {"step": 3, "loss": 0.5, "lr": 0.1}
    raw = as_bytes(line) + b"\n" + data.draw(st.one_of(changed(line).map(as_bytes), st.binary()))
    raw = data.draw(st.one_of(st.just(raw + b"\n"), damaged([raw + b"\n" + as_bytes(line)], [])))
    length = put(place / "run" / "log.jsonl", raw)
    with watched(length, "log.jsonl"):
        folder.rewind_log(place / "run", 3)


# ---- data sets ----------------------------------------------------------------------------------


@FUZZ
@given(data=st.data())
def test_a_batch_of_cifar10(place, data):
    pixels, labels = np.zeros((N, 3072), np.uint8), [1] * N
    form, whole = data.draw(st.sampled_from([
        (sources.PYTHON, [old_pickle(pixels, labels), new_pickle(pixels, labels)]),
        (sources.BINARY, [records(pixels, labels)]),
    ]))  # fmt: skip
    raw = data.draw(damaged(whole, PICKLE_PARTS))
    for name in form.batches:
        put(place / form.folder / name, raw)
    with watched(len(raw) * 6, form.folder):
        sources.load_copy(place / form.folder, replace(form, images=N))


@settings(FUZZ, max_examples=3 + LONGER // 100)  # each in a process of its own
@given(data=st.data())
def test_imagenets_development_kit(place, data):
    truth = next(text for name, text in KIT.items() if name.endswith(".txt"))
    raw = truth if isinstance(truth, bytes) else truth.encode()
    length = put(place / "kit" / "meta.mat", data.draw(damaged([meta()], [])))
    length += put(place / "kit" / "ILSVRC2012_validation_ground_truth.txt",
                  data.draw(st.one_of(st.just(raw), damaged([raw], []))))  # fmt: skip
    with watched(length, "kit"):
        read_labels(place / "kit", place / "none")


@FUZZ
@given(data=st.data())
def test_kaggles_lists(place, data):
    for name, text in LISTS.items():
        put(place / "kaggle" / name, data.draw(damaged([text.encode()], [b'"'])))
    with watched(2_000, "kaggle"):
        read_labels(place / "kaggle", place / "none")


@FUZZ
@given(data=st.data())
def test_what_is_packed(place, data):
    own = {"format": 1, "sets": {"train": {"shards": [], "counts": [1]}}, "classes": ["a"]}
    raw = data.draw(st.one_of(changed(own).map(as_bytes), damaged([as_bytes(own)], [])))
    with watched(put(place / "packed" / CONTENTS_FILE, raw), CONTENTS_FILE):
        read_contents(str(place / "packed"))
