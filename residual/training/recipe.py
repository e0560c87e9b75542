"""An experiment is a value: how a network is trained (Sec. 3.4 and 4.2)."""

import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, get_type_hints


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Whatever can change the answer is here, and nothing else."""

    network: str
    batch: int = 128  # images per step, over all processes together
    norm_group: int = 128  # images that share batch-norm statistics
    steps: int = 64_000
    drops: tuple[int, ...] = (32_000, 48_000)  # after so many steps, a tenth of the rate
    lr: float = 0.1
    warmup: tuple[int, float] = (0, 0.01)  # so many first steps, at this rate
    momentum: float = 0.9
    weight_decay: float = 1e-4
    split: str = "full"  # or 45k5k: nine tenths of the training images, the others for choices
    padding: int = 4  # zero pixels on each side, before the random crop
    mirror: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError, in a sentence, for a value that no training can have."""
        least = dict.fromkeys(("batch", "norm_group", "steps"), 1)
        least |= dict.fromkeys(("padding", "seed", "lr", "momentum", "weight_decay"), 0)
        for name, bound in least.items():
            if not getattr(self, name) >= bound:  # so that nan is refused, too
                raise ValueError(f"{name} is at least {bound}, not {getattr(self, name)}")
        if self.seed >= 2**63:
            raise ValueError(f"seed is below 2**63, not {self.seed}")
        if self.split not in ("full", "45k5k"):
            raise ValueError(f"split is full or 45k5k, not {self.split!r}")
        if self.batch % self.norm_group:
            raise ValueError(
                f"a batch of {self.batch} does not divide into norm groups of {self.norm_group}; "
                f"choose a norm_group that divides it"
            )


# Choice: the paper leaves open whether batch normalization saw the 128 images of a step or the 64
# on each of its two GPUs. We take all 128: over three seeds of 800 steps, groups of 64
# gained nothing beyond the deviation (docs/results.md).
CIFAR = Recipe("resnet20")
# Choice: "about 400 iterations" (Sec. 4.2), not the error of 80 % that they led to; the 1202-layer
# net, "trained as described above", is warmed up alike. The 400 are among the 64,000.
CIFAR_DEEP = replace(CIFAR, network="resnet110", warmup=(400, 0.01))
# Choice: the digits are no data of the paper. A shift by one of eight pixels stands for its four of
# thirty-two, a digit is never mirrored, and 600 steps are 53 epochs.
DIGITS = replace(CIFAR, steps=600, drops=(300, 450), padding=1, mirror=False)

RECIPES = {"cifar": CIFAR, "cifar-deep": CIFAR_DEEP, "digits": DIGITS}


def learning_rate(recipe: Recipe, step: int) -> float:
    """The rate for the step after `step` steps."""
    warmup_steps, warmup_rate = recipe.warmup
    if step < warmup_steps:
        return warmup_rate
    return recipe.lr * 0.1 ** sum(step >= drop for drop in recipe.drops)


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """The recipe for another budget: drops and warm-up keep their proportions."""

    def scaled(count: int) -> int:
        return -(-count * steps // recipe.steps)  # upwards: no drop before a step

    warmup_steps, warmup_rate = recipe.warmup
    return replace(
        recipe,
        steps=steps,
        drops=tuple(map(scaled, recipe.drops)),
        warmup=(scaled(warmup_steps), warmup_rate),
    )


def parsed(assignment: str) -> tuple[str, Any]:
    """`field=value`, as on the command line. Raises ValueError for what is no field or no value."""
    name, equals, text = assignment.partition("=")
    types = get_type_hints(Recipe)
    if not equals or name not in types or name == "network":
        there = ", ".join(field for field in types if field != "network")
        raise ValueError(
            f"{assignment!r} sets no field of a recipe; write field=value with {there}"
        )
    default = next(field.default for field in fields(Recipe) if field.name == name)
    try:
        return name, _value(text, default)
    except ValueError:
        raise ValueError(f"{name} is like {_text(default)}, not {text!r}") from None


def _value(text: str, like: Any) -> Any:
    """The text as a value of the same type as another. Raises ValueError where it is none."""
    if isinstance(like, bool):
        return ("false", "true").index(text.lower()) == 1
    if not isinstance(like, tuple):
        return type(like)(text)
    if isinstance(like[-1], float):  # warm-up: so many steps, at this rate
        steps, rate = text.split(",")
        return int(steps), float(rate)
    return tuple(int(part) for part in text.split(",") if part)


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def to_json(recipe: Recipe) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))  # type: ignore[no-any-return]


def from_json(values: dict[str, Any]) -> Recipe:
    """A recipe as it was written. Raises ValueError where it has a field that we do not know."""
    known = {field.name for field in fields(Recipe)}
    required = {field.name for field in fields(Recipe) if field.default is MISSING}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"a recipe has no field {', '.join(unknown)}")
    if absent := sorted(required - values.keys()):
        raise ValueError(f"a recipe needs {', '.join(absent)}")
    frozen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Recipe(**frozen)
