"""What detection/recipe.py claims."""

from dataclasses import replace

import pytest

from residual.tasks.detection.phases import learning_rate
from residual.tasks.detection.recipe import (
    RECIPES,
    VOC07,
    DetectionRecipe,
    from_json,
    with_steps,
)
from residual.training.recipe import parse_assignment, to_json


def test_a_recipe_is_read_as_it_was_written():
    for recipe in RECIPES.values():
        assert from_json(to_json(recipe)) == recipe
    with pytest.raises(ValueError, match="no field warm"):
        from_json({"warm": 1})


def test_a_budget_keeps_the_proportions_of_drops():
    short = with_steps(VOC07, 700)
    assert (short.steps, short.drops) == (700, (500,))
    assert learning_rate(short, 499) == 0.001
    assert learning_rate(short, 500) == pytest.approx(1e-4)


def test_a_field_is_set_as_on_the_command_line():
    assert parse_assignment(DetectionRecipe, "scales=32,64") == ("scales", (32, 64))
    assert parse_assignment(DetectionRecipe, "context=true") == ("context", True)
    for wrong in ("network=vgg16", "scales=a", "nothing"):
        with pytest.raises(ValueError, match=r"scales|sets no field"):
            parse_assignment(DetectionRecipe, wrong)


@pytest.mark.parametrize("field", ["norm", "pooling", "schedule", "bad_boxes"])
def test_a_value_that_no_training_can_have_is_refused_in_a_sentence(field):
    with pytest.raises(ValueError, match=f"{field} is "):
        replace(VOC07, **{field: "other"})
