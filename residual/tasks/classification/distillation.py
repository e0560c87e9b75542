"""Training with a teacher (Romero et al. 2015): FitNet-19 learns from Maxout."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig
from residual.distributed import current_world
from residual.runs.load import Trained
from residual.tasks.classification.load import load
from residual.tasks.classification.losses import TeacherOutput
from residual.tasks.classification.recipe import ClassificationRecipe
from residual.training.checkpoint import weights_sha256

TEACHER, STUDENT = "maxout", "fitnet19"
HINT = "pool1"  # the part of the teacher whose output is its second hidden layer


def load_teacher(run: Path) -> Trained:
    """A finished run as a teacher. Raises ValueError where the folder holds none."""
    if not (run / "result.json").exists():
        raise ValueError(f"{run} holds no finished run; a teacher is a finished run of {TEACHER}")
    return load(run)


def with_teacher(recipe: ClassificationRecipe, teacher: Trained | None) -> ClassificationRecipe:
    """The recipe for a training with this teacher. Raises ValueError if `lesson` is set
    without a teacher, or a teacher is given without it."""
    if teacher is not None and recipe.lesson == "none":
        raise ValueError(
            "this recipe does not use a teacher; choose --recipe fitnet-hint or fitnet-distilled"
        )
    if teacher is not None:
        return replace(recipe, teacher=weights_sha256(teacher.net.state_dict()))
    if recipe.lesson != "none":
        raise ValueError(
            f"lesson={recipe.lesson} needs a teacher; name a finished run of {TEACHER} "
            f"with --teacher"
        )
    return recipe


def check_teacher(teacher: Trained, recipe: ClassificationRecipe, classes: tuple[str, ...]) -> None:
    """Raises ValueError where this is not the recipe's teacher, or cannot be one here."""
    if teacher.network != TEACHER:
        raise ValueError(f"a teacher is a run of {TEACHER}, and this one is of {teacher.network}")
    if recipe.lesson == "hint" and recipe.network != STUDENT:
        raise ValueError(f"{recipe.network} has no layer for a hint; {STUDENT} has")
    if weights_sha256(teacher.net.state_dict()) != recipe.teacher:
        raise ValueError("the teacher has other weights than the recipe says: it is another run")
    if teacher.classes != classes:
        raise ValueError(
            f"the teacher knows the classes {', '.join(teacher.classes or ())}, "
            f"and the data has {', '.join(classes)}"
        )


def same_preprocessing(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two make the same inputs, up to the last bits of what was measured."""
    pairs = [(one.mean, other.mean), (one.whitening, other.whitening)]
    return one.contrast == other.contrast and all(
        a is b
        if a is None or b is None
        else a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=1e-6)
        for a, b in pairs
    )


def teacher_function(
    recipe: ClassificationRecipe,
    environment: dict[str, Any],
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    config: ComputeConfig,
) -> Callable[[Tensor], TeacherOutput]:
    """The function from a run's inputs (N, 3, H, W) to its teacher's scores and hint. Raises
    ValueError where the teacher is not the recipe's or does not fit."""
    path = environment["data"].get("teacher")
    if path is None:
        raise ValueError(f"the recipe has lesson={recipe.lesson}, and the run has no teacher")
    teacher = current_world().on_first(lambda: load_teacher(Path(path)))
    check_teacher(teacher, recipe, classes)
    if not same_preprocessing(teacher.preprocessing, preprocessing):
        raise ValueError(
            f"the teacher {path} sees pictures after another preprocessing; train both on the "
            f"same data, with the same contrast and split"
        )
    net = teacher.placed(config).net.requires_grad_(False)

    def run_teacher(images: Tensor) -> TeacherOutput:
        x = hint = images
        for name, part in net.named_children():
            x = part(x)
            if name == HINT:
                hint = x
        return x, hint

    return run_teacher
