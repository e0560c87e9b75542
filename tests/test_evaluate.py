"""The error of `residual evaluate` and `residual.evaluate` is the one that the protocol defines."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import draw_pictures

import residual
from residual.data.datasets import Data
from residual.data.loader import evaluation_batches
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.tasks.classification.evaluate import evaluate_ensemble
from residual.tasks.classification.inference import InferenceOptions
from residual.tasks.classification.load import load
from residual.tasks.classification.protocols import PROTOCOLS, get_protocol

HOW = ComputeConfig(threads=1)
WORK = InferenceOptions(HOW)
ONE = PROTOCOLS["1crop"]
KEYS = {
    *("network", "data", "protocol", "seen", "wrong_top1", "wrong_top5", "error_top1"),
    *("error_top5", "images_per_second", "resize", "crop", "interpolation", "mirror", "views"),
    *("averaged", "damaged", "precision"),
}


def evaluate(*words, **options) -> dict:
    return residual.evaluate(*words, **options).record


def without_speed(record: dict) -> dict:
    return {key: value for key, value in record.items() if key != "images_per_second"}


def in_part(data: Data, *names: str, order: tuple[str, ...] = ()) -> Data:
    """The same pictures of these classes alone, whose numbers are their places in `order`."""
    order = order or names
    chosen = torch.tensor([data.classes[y] in names for y in data.test.labels.tolist()])
    test = data.test.subset(chosen.nonzero()[:, 0])
    labels = torch.tensor([order.index(data.classes[y]) for y in test.labels.tolist()])
    return replace(data, classes=order, test=replace(test, labels=labels))


@pytest.fixture(scope="module")
def record(finished) -> dict:
    return evaluate(finished, "digits", config=HOW)


def test_the_error_of_a_run_is_the_one_that_its_training_ended_with(finished, record):
    result = json.loads((finished / "result.json").read_text())
    for key in ("seen", "wrong_top1", "wrong_top5", "error_top1", "protocol"):
        assert record[key] == result[key]
    assert record["seen"] == 360
    assert record["wrong_top1"] < 360


def test_the_error_is_that_of_counting_by_hand(finished, record):
    net = load(finished)
    wrong = 0
    for x, y in evaluation_batches(digits().test, net.preprocessing, 1):
        wrong += int(net.net(x).argmax()) != int(y)
    assert (record["wrong_top1"], record["error_top1"]) == (wrong, 100 * wrong / 360)


def test_a_record_has_the_promised_keys(finished, record):
    assert record.keys() >= KEYS
    assert record["network"] == "resnet8"
    assert record["data"] == {
        "name": "digits", "fingerprint": digits().fingerprint, "split": "test"
    }  # fmt: skip
    together = evaluate([finished, finished], "digits", config=HOW)
    assert together["networks"] == ["resnet8"] * 2
    assert "network" not in together


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_a_run_is_judged_alike_however_the_images_are_batched(finished, record, batch):
    found, *_ = evaluate_ensemble(
        [load(finished)], digits(), None, ONE, replace(WORK, micro_batch=batch)
    )
    assert without_speed(found) == without_speed(record)


def test_an_ensemble_of_one_is_the_one(finished, record):
    def counts(found: dict) -> tuple[int, int]:
        return found["wrong_top1"], found["wrong_top5"]

    assert without_speed(evaluate([finished], "digits", config=HOW)) == without_speed(record)
    assert counts(evaluate([finished] * 2, "digits", config=HOW)) == counts(record)


def test_the_training_set_may_be_asked_for_and_a_set_that_is_not_there_is_refused(finished):
    assert evaluate(finished, "digits", split="train", config=HOW)["seen"] == 1_437
    with pytest.raises(ValueError, match="digits has no val set; it has train, test"):
        evaluate(finished, "digits", split="val", config=HOW)


def test_classes_are_matched_by_name_and_not_by_place(finished, record):
    turned = in_part(digits(), *"9876543210")
    found, *_ = evaluate_ensemble([load(finished)], turned, None, ONE, WORK)
    assert found["wrong_top1"] == record["wrong_top1"]


def test_a_class_that_the_data_lacks_takes_nothing_from_the_others(finished):
    net, parts = load(finished), ("358", "0124679")
    counts = [
        evaluate_ensemble([net], in_part(digits(), *part), None, ONE, WORK)[0]["wrong_top1"]
        for part in parts
    ]
    whole = evaluate_ensemble([net], digits(), None, ONE, WORK)[0]["wrong_top1"]
    assert sum(counts) == whole


def test_a_class_that_the_network_never_learnt_is_refused_by_name(finished):
    odd = in_part(digits(), *"01", order=("0", "1", "lobster"))
    with pytest.raises(ValueError, match="classes that resnet8 does not know: lobster; it knows 0"):
        evaluate_ensemble([load(finished)], odd, None, ONE, WORK)


def test_under_six_classes_there_is_no_top_5_error(finished):
    few, *_ = evaluate_ensemble([load(finished)], in_part(digits(), *"01234"), None, ONE, WORK)
    assert few["wrong_top5"] is None
    assert few["error_top5"] is None
    six, *_ = evaluate_ensemble([load(finished)], in_part(digits(), *"012345"), None, ONE, WORK)
    assert six["wrong_top5"] is not None


def test_pictures_of_another_size_are_refused_with_both_sizes(finished):
    data = digits()
    larger = replace(data, test=replace(data.test, pixels=data.test.pixels.repeat(1, 1, 2, 2)))
    with pytest.raises(ValueError, match="pictures of 8x8 pixels, and those of digits are 16x16"):
        evaluate_ensemble([load(finished)], larger, None, ONE, WORK)


def test_a_damaged_picture_counts_as_wrong_and_is_reported(finished, record):
    data = digits()
    torn = replace(data, test=replace(data.test, damaged=(("test/3/a.png", 3),)))
    found, *_ = evaluate_ensemble([load(finished)], torn, None, ONE, WORK)
    assert (found["damaged"], found["seen"]) == (1, 361)
    assert found["wrong_top1"] == record["wrong_top1"] + 1


def test_an_ensemble_matches_the_classes_of_its_networks_by_name(finished, record):
    one = load(finished)
    turned = replace(load(finished), classes=tuple(reversed(one.classes)))
    with torch.no_grad():
        for tensor in (turned.net.fc.weight, turned.net.fc.bias):
            tensor.copy_(tensor.flip(0))
    found, *_ = evaluate_ensemble([one, turned], digits(), None, ONE, WORK)
    assert found["wrong_top1"] == record["wrong_top1"]
    assert found["wrong_top5"] == record["wrong_top5"]


def test_networks_of_other_classes_or_sizes_make_no_ensemble(finished):
    one = load(finished)
    larger = replace(one.preprocessing, mean=torch.zeros(3, 1, 1), size=(16, 16))
    for other, why in (
        (replace(one, classes=(*"012345678", "lobster")), "they differ in their classes"),
        (replace(one, classes=None), "only one of them has names of classes"),
        (replace(one, preprocessing=larger), "they take pictures of 16x16 and 8x8 pixels"),
    ):
        with pytest.raises(ValueError, match=f"the networks of an ensemble have.*{why}"):
            evaluate_ensemble([one, other], digits(), None, ONE, WORK)


def test_a_network_without_class_names_is_refused_where_the_number_of_classes_differs(finished):
    nameless = replace(load(finished), classes=None)
    with pytest.raises(ValueError, match="resnet8 has 10 classes without names"):
        evaluate_ensemble([nameless], in_part(digits(), *"01234"), None, ONE, WORK)
    assert evaluate_ensemble([nameless], digits(), None, ONE, WORK)[0]["seen"] == 360


@pytest.mark.parametrize(
    "protocol",
    [get_protocol("10crop"), get_protocol("multiscale"), get_protocol("1crop", mirror=True)],
    ids=["10crop", "multiscale", "mirror"],
)
def test_of_a_small_picture_there_is_one_view(finished, protocol):
    with pytest.raises(ValueError, match="resnet8 takes small pictures, of which there is one"):
        evaluate_ensemble([load(finished)], digits(), None, protocol, WORK)


def test_a_network_for_photographs_is_not_judged_on_small_pictures(finished):
    one = load(finished)
    large = replace(one, preprocessing=replace(one.preprocessing, shorter=12))
    with pytest.raises(ValueError, match="resnet8 takes photographs, and digits has small"):
        evaluate_ensemble([large], digits(), None, ONE, WORK)


def test_the_mode_of_a_network_is_put_back(finished):
    net = load(finished)
    net.net.train()
    evaluate_ensemble([net], digits(), None, ONE, WORK)
    assert net.net.training


def test_the_command_prints_one_object(command, finished, record):
    answer = command("evaluate", finished, "--json", "--threads", 1)
    assert answer.status == 0, answer.err
    assert len(answer.out.splitlines()) == 1
    assert without_speed(answer.json) == without_speed(record)
    assert answer.json["images_per_second"] > 0


def test_the_command_says_the_error_in_words(command, finished, record):
    answer = command("evaluate", finished, finished, "--split", "test", "--threads", 1)
    assert f"{record['error_top1']:.2f} % error" in answer.out
    assert "resnet8 + resnet8 on digits (test), 1crop" in answer.out


def test_the_command_judges_on_a_folder_by_the_names_of_its_classes(command, finished, tmp_path):
    known = draw_pictures(tmp_path / "known", 2, ("3", "8"))
    unknown = draw_pictures(tmp_path / "unknown", 2, ("3", "lobster"))
    words = ("--root", tmp_path / "root", "--threads", 1)
    answer = command("evaluate", finished, "--data", known, "--json", *words)
    assert answer.status == 0, answer.err
    assert answer.json["seen"] == 4
    refused = command("evaluate", finished, "--data", unknown, *words)
    assert refused.status == 1
    assert "lobster" in refused.err


def test_a_checkpoint_that_is_passed_over_is_named(command, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    newest = sorted((run / "checkpoints").iterdir())[-1]
    older = newest.with_name("step-00000030.safetensors")
    older.write_bytes(newest.read_bytes())
    newest.write_bytes(newest.read_bytes()[:-1])
    assert newest.name in load(run).notices[0]
    assert f"{newest} is damaged" in command("evaluate", run, "--threads", 1).err
