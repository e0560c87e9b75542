"""The weights of one network are selected in a checkpoint of another program."""

import argparse
import json
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from made_transformers import Classifier, write_config
from safetensors.torch import save_file
from test_convert import apart, drawn, filled
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from residual.weights.convert import Conversion, convert
from residual.weights.files import entry, read

State = dict[str, Any]


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    with torch.device("meta"):
        net = torchvision.models.resnet18(num_classes=7)
    return drawn(net)


@pytest.fixture(scope="module")
def expected(theirs) -> dict[str, Tensor]:
    return convert(theirs.state_dict(), "resnet18").state


def under(before: str, state: State) -> State:
    return {f"{before}{key}": value for key, value in state.items()}


def equal(conversion: Conversion, expected: State) -> bool:
    """Whether a conversion has the same weights; of a body all but the last layer."""
    keys = {key for key in expected if not (conversion.body and key.startswith("fc."))}
    same = all(torch.equal(conversion.state[key], expected[key]) for key in keys)
    return conversion.state.keys() == keys and same


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torchvisions_and_timms_scripts_write_is_read(theirs, expected, tmp_path, zipped):
    sgd = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    averaged = AveragedModel(theirs)
    args = argparse.Namespace(lr=0.1, output_dir=Path("out"), rng=random.Random(0))
    saved = {"optimizer": sgd.state_dict(), "epoch": 3, "args": args, "scaler": {"scale": 1.0}}
    vision = {"model": theirs.state_dict(), "model_ema": averaged.state_dict(), **saved}
    timm = {"arch": "resnet18", "state_dict": theirs.state_dict(), "metric": 0.5, **saved}
    for content in (vision, timm):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        assert equal(convert(read(tmp_path / "a.pth"), "resnet18"), expected)


@pytest.mark.parametrize("before", [
    "module.", "model.", "net.", "backbone.", "encoder.", "_orig_mod.", "module._orig_mod.",
    "model.backbone.", "model.net.module.encoder.", "anything.0.body.",
])  # fmt: skip
def test_what_all_keys_begin_with_is_taken_off(theirs, expected, before):
    conversion = convert({"state_dict": under(before, theirs.state_dict())}, "resnet18")
    assert equal(conversion, expected)
    assert not conversion.body and not conversion.notices


def test_parts_that_were_compiled_one_by_one_are_read(theirs, expected):
    state = {key.replace(".0.", ".0._orig_mod."): v for key, v in theirs.state_dict().items()}
    assert equal(convert(state, "resnet18"), expected)


def test_an_averaged_models_count_is_no_weight(theirs, expected):
    conversion = convert(AveragedModel(nn.DataParallel(theirs)).state_dict(), "resnet18")
    assert equal(conversion, expected) and not conversion.notices


@pytest.mark.parametrize(("usual", "other"), [
    ("state_dict", "state_dict_ema"), ("model", "model_ema"), ("state_dict", "ema_state_dict"),
])  # fmt: skip
def test_of_two_entries_the_usual_is_taken_which_is_said_and_the_other_by_name(
    theirs, expected, usual, other
):
    averaged = {key: value + 1 for key, value in theirs.state_dict().items()}
    content = {other: {"n_averaged": torch.tensor(3), **under("module.", averaged)}}
    content[usual] = theirs.state_dict()
    conversion = convert(content, "resnet18")
    assert equal(conversion, expected)
    assert conversion.notices == (
        f"the weights under {usual} are taken, not those under {other} (--entry)",
    )
    conversion = convert(content, "resnet18", entry=other)
    assert equal(conversion, convert(averaged, "resnet18").state)
    assert f"under {other} are taken, not those under {usual}" in conversion.notices[0]
    several = convert({f"old{i}": dict(averaged) for i in range(6)} | content, "resnet18")
    assert "not those under old0, old1, old2, old3 and 3 more (--entry)" in several.notices[0]
    with pytest.raises(ValueError, match=rf"no entry emma; there are {other}, {usual}$"):
        convert(content, "resnet18", entry="emma")


def test_of_entries_none_of_which_is_usual_one_has_to_be_named(theirs, expected):
    content = {"student": theirs.state_dict(), "teacher": theirs.state_dict()}
    content["teacher"] = under("module.", content["teacher"])
    with pytest.raises(ValueError, match="weights under student, teacher: choose one with --entry"):
        convert(content, "resnet18")
    assert equal(convert(content, "resnet18", entry="teacher"), expected)
    assert equal(convert({"run": {"teacher": content["teacher"]}}, "resnet18"), expected)


def test_what_lies_beside_a_network_in_a_lightning_module_is_left_out_and_said(theirs, expected):
    state = under("model.", theirs.state_dict()) | {"criterion.weight": torch.ones(7)}
    conversion = convert({"state_dict": state, "hyper_parameters": {"lr": 0.1}}, "resnet18")
    assert equal(conversion, expected)
    (notice,) = conversion.notices
    assert notice == "keys that do not belong to the network are left out (1): criterion.weight"


def test_what_no_network_of_ours_has_is_still_refused_behind_a_prefix(theirs):
    state = under("model.", theirs.state_dict()) | {"model.extra.weight": torch.ones(7)}
    with pytest.raises(ValueError, match=r"unexpected \(1\): model\.extra\.weight"):
        convert(state, "resnet18")


def test_mmpretrains_head_is_the_last_layer(theirs, expected):
    state = {key.replace("fc.", "head.fc.") if key.startswith("fc.") else f"backbone.{key}": value
             for key, value in theirs.state_dict().items()}  # fmt: skip
    for content in (state, under("module.", state)):
        conversion = convert({"meta": {}, "state_dict": content}, "resnet18")
        assert equal(conversion, expected) and not conversion.body


def test_of_two_networks_in_one_state_one_has_to_be_named(theirs, expected):
    state = theirs.state_dict()
    content = {"state_dict": under("module.encoder_q.", state) | {"module.queue": torch.ones(2, 9)}}
    content["state_dict"] |= under("module.encoder_k.", state)
    with pytest.raises(
        ValueError, match=r"begin with module\.encoder_k, module\.encoder_q: choose"
    ):
        convert(content, "resnet18")
    for wanted in ("module.encoder_q", "state_dict.module.encoder_q"):
        conversion = convert(content, "resnet18", entry=wanted)
        # What a contrastive network has as its last layer tells no classes apart.
        assert conversion.body and equal(conversion, expected)
        assert "module.encoder_q.fc.weight" in conversion.notices[0]


@pytest.mark.parametrize("kind", ["timm", "features", "mmpretrain", "plain"])
def test_a_body_without_a_last_layer_is_read_as_one(theirs, expected, kind):
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    if kind in ("timm", "features"):
        timm = pytest.importorskip("timm", reason="timm is not installed")
        words = {"num_classes": 0} if kind == "timm" else {"features_only": True}
        net = timm.create_model("resnet18", **words).double()
        net.load_state_dict(state)
        state = net.state_dict()
    if kind == "mmpretrain":
        state = under("backbone.", state)
    conversion = convert(OrderedDict(state), "resnet18")
    assert conversion.body and equal(conversion, expected)
    assert conversion.config.classes is None


def test_a_body_of_which_more_is_missing_is_refused(theirs):
    state = {key: value for key, value in theirs.state_dict().items() if key[:6] < "layer4"}
    with pytest.raises(ValueError, match=r"missing \(\d+\): conv5_x\.0\.branch\.0\.0\.weight"):
        convert({k: v for k, v in state.items() if not k.startswith("fc.")}, "resnet18")


@pytest.mark.parametrize(("depth", "in_first", "network"), [
    (18, False, "resnet18"), (34, True, "resnet34"), (50, True, "resnet50"),
    (50, False, "resnet50-v1.5"), (50, None, "resnet50-v1.5"),
])  # fmt: skip
def test_hugging_faces_networks_give_the_same_scores(tmp_path, depth, in_first, network):
    from residual.weights.published import config_of

    net = drawn(Classifier(depth, bool(in_first), 5))
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    write_config(tmp_path, in_first, 5)
    card = config_of(tmp_path / "model.safetensors")
    assert card is not None
    conversion = convert(read(tmp_path), network, config=card)
    assert apart(filled(network, conversion.state, 5), net, 64) < 1e-9
    assert (card.mean, card.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert (card.size, card.shorter) == ((160, 160), 182)
    assert card.classes == tuple(f"class {i}" for i in range(5))
    assert ("first 1x1" if in_first else "3x3") in card.says
    body = convert(net.resnet.state_dict(), network, config=card)
    assert body.body and equal(body, conversion.state)


def test_without_its_config_the_variant_of_hugging_faces_weights_has_to_be_said(tmp_path):
    with torch.device("meta"):
        state = Classifier(50).state_dict()
    state = {key: torch.empty_like(value, device="cpu") for key, value in state.items()}
    with pytest.raises(ValueError, match="here is none: assume the right one"):
        convert(state, "resnet50")
    assert convert(state, "resnet50", assume="v1").network == "resnet50"
    assert convert(state, "resnet50-v1.5", assume="v1.5").network == "resnet50-v1.5"
    with pytest.raises(ValueError, match="v1.5; to assume v1, convert to resnet50$"):
        convert(state, "resnet50-v1.5", assume="v1")


def test_a_config_of_another_variant_is_not_passed_over(tmp_path):
    from residual.weights.published import config_of

    with torch.device("meta"):
        state = Classifier(50, classes=5).state_dict()
    (tmp_path / "model.safetensors").write_bytes(b"any")
    for in_first, wrong, right in ((True, "resnet50-v1.5", "resnet50"),
                                   (False, "resnet50", "resnet50-v1.5")):  # fmt: skip
        write_config(tmp_path, in_first, 5)
        card = config_of(tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=f"convert them to {right}(,|$)"):
            convert(state, wrong, config=card)
    write_config(tmp_path, False, 5, downsample_in_first_stage=True)
    with pytest.raises(ValueError, match=r"config\.json is no .* first stage is not the paper's"):
        config_of(tmp_path / "model.safetensors")
    write_config(tmp_path, False, 5, id2label=[1, 2])
    with pytest.raises(ValueError, match=r"config\.json is no config\.json of Hugging Face"):
        config_of(tmp_path / "model.safetensors")


def test_a_network_that_refers_to_itself_is_searched_once():
    content: State = {"epoch": 3}
    content["model"] = content
    assert entry(content)[0] == content


def test_the_command_takes_the_entry_by_name_and_says_what_it_left(theirs, command, tmp_path):
    theirs = theirs.float()
    content = {"state_dict": theirs.state_dict(), "state_dict_ema": theirs.state_dict().copy()}
    content["args"] = argparse.Namespace(lr=0.1)
    torch.save(content, tmp_path / "checkpoint-3.pth.tar")
    words = ("convert", tmp_path / "checkpoint-3.pth.tar", "--network", "resnet18", "--out")
    answer = command(*words, tmp_path / "one")
    assert answer.status == 0
    assert "the weights under state_dict are taken, not those under state_dict_ema" in answer.err
    answer = command(*words, tmp_path / "other", "--entry", "state_dict_ema")
    assert "the weights under state_dict_ema are taken" in answer.err
    answer = command(*words, tmp_path / "third", "--entry", "ema")
    assert answer.status == 1 and not (tmp_path / "third").exists()
    assert "no entry ema; there are state_dict, state_dict_ema" in answer.complaint


def test_a_body_begins_a_training_and_is_refused_where_classes_are_told_apart(
    theirs, command, pictures, tmp_path
):
    state = {key: v for key, v in theirs.float().state_dict().items() if not key.startswith("fc.")}
    torch.save(state, tmp_path / "body.pth")
    body, out = tmp_path / "body.safetensors", tmp_path / "run"
    answer = command("convert", tmp_path / "body.pth", "--network", "resnet18", "--out", body)
    assert answer.status == 0 and "good to begin a training with --weights" in answer.out
    picture = next(pictures.rglob("*.png"))
    for words in (("predict", body, picture), ("evaluate", body, "--data", pictures),
                  ("export", body, "--out", tmp_path / "x.onnx")):  # fmt: skip
        answer = command(*words)
        assert answer.status == 1
        assert "holds resnet18 without its last layer" in answer.complaint
    sizes = {"batch": 4, "norm_group": 4, "size": 32, "shorter": 32, "steps": 1, "patience": 0}
    words = [word for name, value in sizes.items() for word in ("--set", f"{name}={value}")]
    answer = command("train", "resnet18", "--data", pictures, "--recipe", "finetune", "--weights",
                     body, "--out", out, "--root", tmp_path / "root", "--json", *words)  # fmt: skip
    assert answer.status == 0, answer.err
    assert json.loads((out / "classes.json").read_text()) == ["cat", "dog"]
    assert command("predict", out, picture).status == 0
