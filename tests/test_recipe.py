"""What recipe.py claims: Section 3.4's and 4.2's schedules, and a recipe as a value."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from residual.tasks.classification.baseline_recipes import RECIPES as BASELINES
from residual.tasks.classification.recipe import (
    CIFAR,
    CIFAR_DEEP,
    RECIPES,
    ClassificationRecipe,
    check_average,
    from_json,
    initial_share,
    learning_rate,
    with_steps,
)
from residual.training.recipe import parse_assignment, to_json


def test_the_recipe_of_section_4_2_is_the_paper_s():
    assert (CIFAR.batch, CIFAR.lr, CIFAR.momentum, CIFAR.weight_decay) == (128, 0.1, 0.9, 1e-4)
    assert (CIFAR.steps, CIFAR.drops, CIFAR.padding) == (64_000, (32_000, 48_000), 4)
    assert CIFAR.mirror
    assert CIFAR.split == "full"
    assert replace(CIFAR_DEEP, network="resnet20", warmup=CIFAR.warmup) == CIFAR


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1), (1, 0.1), (31_999, 0.1), (32_000, 0.01), (32_001, 0.01),
        (47_999, 0.01), (48_000, 0.001), (63_999, 0.001),
    ],
)  # fmt: skip
def test_the_rate_is_divided_by_ten_at_32k_and_48k(step, rate):
    assert learning_rate(CIFAR, step) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.01), (399, 0.01), (400, 0.1), (31_999, 0.1), (32_000, 0.01), (48_000, 0.001)],
)
def test_a_deep_network_warms_up_for_400_steps_at_a_tenth_of_the_rate(step, rate):
    assert learning_rate(CIFAR_DEEP, step) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("steps", [80, 160, 800, 6_400, 128_000])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_another_budget_keeps_the_proportions(recipe, steps):
    scaled = with_steps(recipe, steps)
    assert scaled.steps == steps
    for before, after in zip(
        (*recipe.drops, recipe.warmup[0]), (*scaled.drops, scaled.warmup[0]), strict=True
    ):
        assert abs(after / steps - before / recipe.steps) < 1 / steps
    assert scaled.warmup[1] == recipe.warmup[1]
    rest = {key: getattr(recipe, key) for key in ("steps", "drops", "warmup", "average")}
    assert replace(scaled, **rest) == recipe


def weight_by_hand(recipe: ClassificationRecipe) -> float:
    """What is left in the average of the weights it began with: 1, and each update's share of it;
    it begins anew in the warm-up."""
    (every, decay), left = recipe.average, 1.0
    for step in range(1, recipe.steps + 1):
        if step % every == 0:
            left = 1.0 if step <= recipe.warmup[0] else left * decay
    return left


AVERAGED = {"modern": RECIPES["modern"], "googlenet": BASELINES["googlenet"]}


@pytest.mark.parametrize("steps", [10, 100, 2_000, 7_506])
@pytest.mark.parametrize("recipe", AVERAGED.values(), ids=AVERAGED)
def test_a_smaller_budget_leaves_no_more_of_the_start_in_the_averaged_weights(recipe, steps):
    scaled = with_steps(recipe, steps)
    assert weight_by_hand(scaled) == pytest.approx(initial_share(scaled), rel=1e-9)
    # About as little as in the full budget; but few updates are whole ones.
    assert weight_by_hand(scaled) < 1e-8
    check_average(scaled)


@pytest.mark.parametrize("recipe", AVERAGED.values(), ids=AVERAGED)
def test_the_full_budget_averages_as_published_to_the_last_bit(recipe):
    assert with_steps(recipe, recipe.steps) == recipe
    assert initial_share(recipe) < 1e-10


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"steps": 2_000, "average": (10, 0.9999)}, "98 % of the averaged weights would be those"),
        ({"steps": 20, "average": (32, 0.5)}, "100 % of the averaged weights"),
        ({"steps": 9, "warmup": (20, 0.1), "average": (10, 0.5)}, "100 % of the averaged weights"),
        ({"steps": 25, "warmup": (20, 0.1), "average": (10, 0.5)}, "100 % of the averaged weights"),
        ({"steps": 20, "average": (1, 1.5)}, "the decay of an average is between 0 and 1, not 1.5"),
        ({"steps": 20, "average": (1, float("nan"))}, "decay of an average .* not nan"),
    ],
)
def test_an_average_that_would_be_mostly_the_start_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_average(replace(CIFAR, **change))


def test_an_average_that_is_still_the_network_itself_is_not_refused():
    """In the warm-up each update copies the network."""
    check_average(replace(CIFAR, steps=20, warmup=(20, 0.1), average=(1, 0.5)))
    one = with_steps(RECIPES["modern"], 1)
    assert one.warmup[0] == one.steps == one.average[0] == 1
    check_average(one)


def test_half_of_the_start_is_the_most_that_an_average_may_be():
    check_average(replace(CIFAR, steps=20, average=(20, 0.5)))
    check_average(replace(CIFAR, steps=20, average=(0, 0.9999)))
    with pytest.raises(ValueError, match="51 %"):
        check_average(replace(CIFAR, steps=20, average=(20, 0.51)))


def test_the_budget_of_the_recipe_itself_changes_nothing():
    assert with_steps(CIFAR_DEEP, 64_000) == CIFAR_DEEP
    assert with_steps(with_steps(CIFAR_DEEP, 640), 64_000) == CIFAR_DEEP


ASSIGNMENTS = {
    "lesson=hint": "hint",
    "guidance=2,0.5": (2.0, 0.5),
    "temperature=4": 4.0,
    "batch=256": 256,
    "norm_group=64": 64,
    "steps=10": 10,
    "drops=5,8": (5, 8),
    "lr=0.05": 0.05,
    "warmup=40,0.001": (40, 0.001),
    "momentum=0": 0.0,
    "weight_decay=5e-4": 5e-4,
    "split=45k5k": "45k5k",
    "padding=0": 0,
    "mirror=False": False,
    "seed=7": 7,
    "schedule=cosine": "cosine",
    "patience=3": 3,
    "backbone_rate=0.1": 0.1,
    "frozen=true": True,
    "smoothing=0.1": 0.1,
    "average=32,0.999": (32, 0.999),
    "true_statistics=1000": 1000,
    "crop=scale": "scale",
    "size=176": 176,
    "scales=256,480": (256, 480),
    "test_size=224": 224,
    "shorter=232": 232,
    "mean=channel": "channel",
    "colour=0.1": 0.1,
    "trivial=true": True,
    "erasing=0.1": 0.1,
    "mixup=0.2": 0.2,
    "cutmix=1": 1.0,
    "balance=sampler": "sampler",
    "bad_images=skip": "skip",
    "block=512": 512,
    "repeats=4": 4,
    "factor=0.96": 0.96,
    "optimizer=rmsprop": "rmsprop",
    "momentum_rise=250,0.65": (250, 0.65),
    "convolution_rate=0.05": 0.05,
    "bias_rate=2": 2.0,
    "heads_rate=0.001": 0.001,
    "last_decay=10": 10.0,
    "loss=squared-hinge": "squared-hinge",
    "auxiliary=0.3": 0.3,
    "auxiliary_steps=50": 50,
    "contrast=whitened": "whitened",
}


@pytest.mark.parametrize(("text", "value"), ASSIGNMENTS.items())
def test_each_field_is_set_from_the_command_line(text, value):
    name, found = parse_assignment(ClassificationRecipe, text)
    assert (name, found) == (text.partition("=")[0], value)
    assert type(found) is type(getattr(CIFAR, name))
    assert getattr(replace(CIFAR, batch=256, norm_group=256, **{}), name) is not None


def test_no_field_but_the_network_is_left_out_above():
    named = {text.partition("=")[0] for text in ASSIGNMENTS}
    assert named == {field.name for field in fields(ClassificationRecipe)} - {
        "network",
        "start",
        "teacher",
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("drops=", ()), ("drops=30", (30,)), ("mirror=true", True), ("mirror=FALSE", False)],
)
def test_other_ways_to_write_a_value(text, value):
    assert parse_assignment(ClassificationRecipe, text) == (text.partition("=")[0], value)


@pytest.mark.parametrize("text", ["speed=3", "lr", "=3", "", "network=plain20", "LR=1"])
def test_what_is_no_field_is_refused_with_the_fields_that_there_are(text):
    with pytest.raises(ValueError, match="sets no field of a recipe") as refusal:
        parse_assignment(ClassificationRecipe, text)
    assert repr(text) in str(refusal.value)
    for field in fields(ClassificationRecipe):
        assert (field.name in str(refusal.value).partition("write field=value")[2]) == (
            field.name not in ("network", "start", "teacher")
        )


@pytest.mark.parametrize(
    "text",
    [
        "batch=many", "batch=1.5", "steps=", "lr=fast", "drops=a,b", "drops=1;2", "warmup=400",
        "warmup=1,2,3", "warmup=a,0.1", "mirror=maybe", "mirror=", "seed=x", "padding=4px",
        "guidance=4", "guidance=4,3,2", "guidance=a,1",
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_named_beside_one_that_would_do(text):
    name, _, value = text.partition("=")
    with pytest.raises(ValueError, match=f"{name} is like .*, not {value!r}"):
        parse_assignment(ClassificationRecipe, text)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch": 100, "norm_group": 64}, "batch of 100 does not divide into norm groups of 64"),
        ({"batch": 64, "norm_group": 128}, "batch of 64 does not divide into norm groups of 128"),
        ({"batch": 0}, "batch is at least 1, not 0"),
        ({"norm_group": 0}, "norm_group is at least 1, not 0"),
        ({"steps": 0}, "steps is at least 1, not 0"),
        ({"padding": -1}, "padding is at least 0, not -1"),
        ({"lr": -0.1}, "lr is at least 0, not -0.1"),
        ({"lr": float("nan")}, "lr is at least 0, not nan"),
        ({"momentum": -0.9}, "momentum is at least 0, not -0.9"),
        ({"weight_decay": -1e-4}, "weight_decay is at least 0, not -0.0001"),
        ({"seed": -1}, "seed is at least 0, not -1"),
        ({"seed": 2**63}, "seed is "),
        (
            {"temperature": 0.0},
            "temperature is above 0, and guidance at least 0, not 0.0 and 4.0,1.0",
        ),
        ({"guidance": (4.0, -1.0)}, "guidance at least 0, not 3.0 and 4.0,-1.0"),
        ({"lesson": "talk"}, "lesson is none or hint or distillation, not 'talk'"),
        ({"split": "half"}, "split is full or 45k5k, not 'half'"),
    ],
)
def test_a_value_that_no_training_can_have_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(CIFAR, **change)


def test_a_recipe_is_a_value():
    assert replace(CIFAR) == CIFAR
    assert hash(replace(CIFAR)) == hash(CIFAR)
    with pytest.raises(FrozenInstanceError):
        CIFAR.lr = 1.0


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_comes_back_from_json_as_it_was(recipe):
    assert from_json(json.loads(json.dumps(to_json(recipe)))) == recipe


def test_a_recipe_with_a_field_that_we_do_not_know_is_refused():
    with pytest.raises(ValueError, match="a recipe has no field dropout, speed"):
        from_json(to_json(CIFAR) | {"dropout": 0.5, "speed": 1})


def test_a_recipe_without_a_network_is_refused():
    with pytest.raises(ValueError, match="a recipe needs network"):
        from_json({"batch": 128})
