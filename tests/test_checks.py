"""A field of a recipe that would change nothing is refused, and is accepted where it counts."""

import json
from dataclasses import fields, replace

import pytest
from conftest import EXACT
from made_photographs import folder  # noqa: F401

from residual import train
from residual.data.datasets import Data, stratified_split
from residual.data.folder import load_folder as small_pictures
from residual.data.folder import open_folder
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.tasks.classification import baseline_recipes, checks
from residual.tasks.classification.recipe import RECIPES, ClassificationRecipe
from residual.tasks.classification.train import begin, nearest, recipe_for
from residual.tasks.detection.recipe import RECIPES as DETECTION
from residual.tasks.detection.train import check, check_effects

ALWAYS = {  # whatever the data and the network are, or refused in another way where they do not
    "network", "start", "teacher", "lesson", "batch", "norm_group", "steps", "lr", "optimizer",
    "weight_decay", "schedule", "patience", "backbone_rate", "convolution_rate", "bias_rate",
    "average", "crop", "mirror", "repeats", "seed",
}  # fmt: skip
SMALL, LARGE = "digits", "photographs"
IDLE = [  # network, data, what is set, and what is set beside it so that it counts
    ("resnet20", SMALL, {"mixup": 0.2}, None),
    ("resnet20", SMALL, {"cutmix": 1.0}, None),
    ("resnet20", SMALL, {"erasing": 0.1}, None),
    ("resnet20", SMALL, {"colour": 0.2}, None),
    ("resnet20", SMALL, {"trivial": True}, None),
    ("resnet20", SMALL, {"mean": "channel"}, None),
    ("resnet20", SMALL, {"size": 64}, None),
    ("resnet20", SMALL, {"test_size": 64}, None),
    ("resnet20", SMALL, {"shorter": 300}, None),
    ("resnet20", SMALL, {"scales": (8, 9)}, None),
    ("resnet20", SMALL, {"bad_images": "skip"}, None),
    ("resnet20", SMALL, {"contrast": "whitened", "start": "f"}, {"start": ""}),
    ("resnet20", SMALL, {"auxiliary": 0.3}, None),
    ("resnet20", SMALL, {"auxiliary_steps": 3}, None),
    ("resnet20", SMALL, {"heads_rate": 0.5}, None),
    ("resnet20", SMALL, {"guidance": (2.0, 1.0)}, {"lesson": "distillation"}),
    ("resnet20", SMALL, {"temperature": 2.0}, {"lesson": "distillation"}),
    ("resnet20", SMALL, {"drops": (30,), "schedule": "cosine"}, {"schedule": "drops"}),
    ("resnet20", SMALL, {"drops": (600, 700)}, {"drops": (599, 700)}),
    ("resnet20", SMALL, {"factor": 0.5, "schedule": "cosine"}, {"schedule": "linear"}),
    ("resnet20", SMALL, {"factor": 0.5, "drops": ()}, {"drops": (9,)}),
    ("resnet20", SMALL, {"warmup": (9, 0.1), "schedule": "linear"}, {"schedule": "cosine"}),
    ("resnet20", SMALL, {"momentum": 0.8, "optimizer": "rmsprop"}, {"optimizer": "nesterov"}),
    ("resnet20", SMALL, {"momentum_rise": (9, 0.8), "optimizer": "rmsprop"}, {"optimizer": "sgd"}),
    ("resnet20", SMALL, {"last_decay": 2.0, "weight_decay": 0.0}, {"weight_decay": 1e-4}),
    ("fitnet19", SMALL, {"smoothing": 0.1, "lesson": "hint"}, {"lesson": "none"}),
    ("fitnet19", SMALL, {"loss": "squared-hinge", "lesson": "hint"}, {"lesson": "none"}),
    ("fitnet19", SMALL, {"balance": "weights", "lesson": "hint"}, {"balance": "sampler"}),
    ("fitnet19", SMALL, {"heads_rate": 0.5}, {"lesson": "hint"}),
    ("fitnet19", SMALL, {"auxiliary": 0.5}, None),
    ("dsn", SMALL, {"heads_rate": 0.5, "auxiliary": 0.0}, {"auxiliary": 0.1}),
    ("dsn", SMALL, {"auxiliary_steps": 9, "auxiliary": 0.0}, {"auxiliary": 0.1}),
    ("nin", SMALL, {"true_statistics": 100}, None),
    ("nin", SMALL, {"frozen": True}, None),
    ("resnet20", SMALL, {"block": 9, "balance": "sampler"}, {"balance": "weights"}),
    ("resnet18", LARGE, {"contrast": "normalized"}, None),
    ("resnet18", LARGE, {"padding": 8}, None),
    ("resnet18", LARGE, {"mean": "channel", "start": "f"}, {"start": ""}),
    ("resnet18", LARGE, {"scales": (300, 400), "crop": "aspect"}, {"crop": "scale"}),
    ("resnet18", LARGE, {"mixup": 0.2, "norm_group": 1}, {"norm_group": 2}),
    ("resnet18", LARGE, {"cutmix": 0.2, "norm_group": 1}, {"norm_group": 2}),
    ("googlenet", LARGE, {"true_statistics": 100}, None),
]  # fmt: skip


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory) -> dict[str, Data]:  # noqa: F811
    return {SMALL: digits(), LARGE: open_folder(folder, tmp_path_factory.mktemp("root"))}


@pytest.mark.parametrize(("network", "kind", "changes", "counting"), IDLE)
def test_a_field_that_changes_nothing_is_refused_and_accepted_where_it_counts(
    data, network, kind, changes, counting
):
    usual, name = recipe_for(network, kind), next(iter(changes))
    recipe = replace(usual, **changes)
    with pytest.raises(ValueError, match=f"^{name}=.* would change nothing here: "):
        checks.check_effects(recipe, usual, data[kind])
    if counting is not None:
        checks.check_effects(replace(recipe, **counting), usual, data[kind])


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 64}, {"shorter": 300}, {"test_size": 256}, {"scales": (300, 400)}, {"mixup": 0.2},
        {"cutmix": 1.0}, {"erasing": 0.1}, {"colour": 0.0}, {"trivial": True}, {"mean": "channel"},
        {"bad_images": "skip"}, {"split": "45k5k"}, {"true_statistics": 9},
    ],
)  # fmt: skip
def test_fields_for_photographs_are_accepted_with_photographs(data, changes):
    usual = recipe_for("resnet18", "pets")
    checks.check_effects(replace(usual, **changes), usual, data[LARGE])


def test_every_field_always_counts_or_is_told_when_it_does(data):
    recipe = recipe_for("resnet20", SMALL)
    conditions = checks.learning_conditions(recipe) | checks.image_conditions(recipe, data[SMALL])
    assert conditions.keys() | ALWAYS == {field.name for field in fields(ClassificationRecipe)}
    assert not conditions.keys() & ALWAYS


def test_damaged_pictures_of_a_folder_may_be_skipped(pictures, tmp_path):
    usual = recipe_for("resnet20", "pictures")
    own = small_pictures(pictures, 32, tmp_path)
    checks.check_effects(replace(usual, bad_images="skip"), usual, own)


def test_a_split_is_refused_where_the_data_has_its_own_unless_patience_looks_at_it(data):
    first, second = stratified_split(data[SMALL].train.labels, 0.1)
    part = data[SMALL].train.subset
    own = replace(data[SMALL], train=part(first), val=part(second))
    usual = recipe_for("resnet20", SMALL)
    halved = replace(usual, split="45k5k")
    with pytest.raises(ValueError, match="split=45k5k would change nothing here"):
        checks.check_effects(halved, usual, own)
    checks.check_effects(halved, usual, data[SMALL])
    checks.check_effects(replace(halved, patience=2), usual, own)


def test_average_and_patience_are_refused_together(data):
    usual = recipe_for("resnet20", SMALL)
    both = replace(usual, split="45k5k", patience=2, average=(2, 0.9))
    with pytest.raises(ValueError, match="average and patience both say which weights"):
        checks.check_effects(both, usual, data[SMALL])
    checks.check_effects(replace(both, schedule="plateau"), usual, data[SMALL])


def test_no_named_recipe_is_refused(data):
    for name, recipe in (RECIPES | baseline_recipes.RECIPES).items():
        kind = SMALL if recipe.crop == "pad" else LARGE
        recipe = replace(recipe, start="f" if recipe.frozen else "")
        checks.check_effects(recipe, recipe_for(recipe.network, kind, name), data[kind])
        checks.check_effects(recipe, nearest(recipe), data[kind])  # as the library is given it


def test_what_is_off_may_be_said(data):
    usual = recipe_for("fitnet19", SMALL)
    said = replace(usual, mixup=0.0, drops=(), momentum=0.9, average=(0, 0.5), trivial=False)
    checks.check_effects(said, usual, data[SMALL])


def test_the_command_refuses_before_a_folder_is_made(command, tmp_path):
    out = tmp_path / "run"
    answer = command("train", "resnet8", "--set", "erasing=0.1", "--out", out)
    assert answer.status == 1
    assert answer.complaint.endswith(
        "erasing=0.1 would change nothing here: it is for photographs, and these are small pictures"
    )
    assert not out.exists()


def test_the_library_refuses_before_a_folder_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"mixup=0\.2 would change nothing here"):
        next(train("resnet8", out=tmp_path / "run", steps=4, mixup=0.2))
    mine = replace(RECIPES["digits"], network="resnet8", steps=4, cutmix=0.2)
    with pytest.raises(ValueError, match=r"cutmix=0\.2 would change nothing here"):
        next(train(recipe=mine, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_with_such_a_field_loads_and_resumes(command, tmp_path):
    recipe = replace(recipe_for("resnet8", "digits"), steps=6, drops=(), erasing=0.1, size=64)
    where = {"where": "digits", "root": str(tmp_path)}
    how = ComputeConfig(threads=1, precision="float32")
    run = begin(tmp_path / "run", recipe, digits(), where, how)
    answer = command("resume", run, "--workers", 0)
    assert answer.status == 0, answer.err
    assert json.loads((run / "result.json").read_text())["recipe"]["erasing"] == 0.1
    again = command("evaluate", run, "--json", *EXACT[:2])
    assert again.status == 0, again.err


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("voc07", {"drops": (70_000,)}),
        ("scratch", {"factor": 0.5, "drops": ()}),
        ("voc07", {"norm": "group", "network": "vgg16"}),
    ],
)
def test_a_detector_s_field_that_changes_nothing_is_refused(name, changes):
    usual = replace(DETECTION[name], network=changes.get("network", "resnet18"))
    with pytest.raises(ValueError, match=f"{next(iter(changes))}=.* would change nothing here"):
        check_effects(replace(usual, **changes), usual)
    for each in DETECTION.values():
        check_effects(each, each)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shorter": 800, "longest": 600}, "shorter=800 is more than longest=600"),
        ({"background": 0.5}, "background must be below 0.5"),
    ],
)
def test_a_detector_s_inverted_bounds_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(replace(DETECTION["scratch"], **changes), ComputeConfig("cpu"))
