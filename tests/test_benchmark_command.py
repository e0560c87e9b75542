"""What `residual benchmark train` and `predict` claim; for `data` see test_benchmarks.py."""

import pytest

from residual.cli.benchmark import duration
from residual.tasks.classification.train import recipe_for


def test_each_setting_worth_a_trial_is_measured_in_training(command):
    answer = command("benchmark", "train", "resnet8", "--threads", 1, "--json")
    assert answer.status == 0, answer.err
    rows = answer.json["settings"]
    settings = [(row["precision"], row["threads"], row["channels_last"]) for row in rows]
    assert settings == [("float32", 1, True), ("float32", 1, False), ("bf16", 1, True)]
    taken = (
        "float32, 1 thread, channels_last",
        "float32, 1 thread",
        "bf16, 1 thread, channels_last",
    )
    assert answer.json["taken"] in taken
    speeds = [row["images_per_second"] for row in answer.json["settings"]]
    recipe = recipe_for("resnet8", "cifar10")
    taken = recipe.steps * recipe.batch / answer.json["days"] / 86_400
    assert taken == pytest.approx(min(speeds, key=lambda speed: abs(speed - taken)))


def test_each_engine_is_measured_at_work(command):
    words = ("--batch", 1, "--batch", 3, "--seconds", 0.05, "--threads", 1)
    answer = command("benchmark", "predict", "resnet8", *words, "--json")
    assert answer.status == 0, answer.err
    found = [(each["engine"], each["batch"]) for each in answer.json["speeds"]]
    assert found == [("onnxruntime", 1), ("onnxruntime", 3), ("torch", 1), ("torch", 3)]
    assert all(each["images_per_second"] > 0 for each in answer.json["speeds"])
    said = command("benchmark", "predict", "resnet8", *words).out.splitlines()
    assert len(said) == 5 and said[-1] == "residual predict takes onnxruntime here."


def test_a_network_that_there_is_not_is_named(command):
    for what in ("train", "predict"):
        answer = command("benchmark", what, "resnet21")
        assert answer.status in (1, 2) and "no network 'resnet21'" in answer.err


@pytest.mark.parametrize(
    ("days", "words"),
    [(100.4, "100 days"), (1, "24.0 hours"), (1 / 24, "60.0 minutes"), (1 / 1440, "1.0 minutes")],
)
def test_a_duration_is_said_as_a_person_says_it(days, words):
    assert duration(days) == words
