"""What the recipes of all tasks share: common fields, bounds, values from text, JSON."""

import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

Positive = Annotated[int, 1]  # the metadata is the least value
NonNegative = Annotated[int, 0]
NonNegativeFloat = Annotated[float, 0]


@dataclass(frozen=True)
class Recipe:
    """Everything that can change the result of a training, and nothing else. Each task extends it.

    The annotation of a field says which values it takes. Raises ValueError for others. The
    defaults are those of Sec. 4.2.
    """

    network: str
    start: str = ""  # sha256 of the initial weights; empty: initialised from the seed
    batch: Positive = 128  # images per step, over all processes
    steps: Positive = 64_000
    drops: tuple[int, ...] = (32_000, 48_000)  # milestones of the learning rate, in steps
    factor: NonNegativeFloat = 0.1  # gamma: it is multiplied by this at each milestone
    lr: NonNegativeFloat = 0.1
    warmup: tuple[int, float] = (0, 0.01)  # steps, and the learning rate in them
    momentum: NonNegativeFloat = 0.9
    weight_decay: NonNegativeFloat = 1e-4
    bad_images: Literal["error", "skip"] = "error"  # stop at a damaged image, or replace it
    seed: NonNegative = 0

    not_settable: ClassVar[frozenset[str]] = frozenset({"network", "start"})  # by field=value

    def __post_init__(self) -> None:
        check_fields(self)
        if self.seed >= 2**63:
            raise ValueError(f"seed is below 2**63, not {self.seed}")


R = TypeVar("R", bound=Recipe)


@cache
def annotations(kind: Any) -> dict[str, Any]:
    """The annotations of a dataclass, with their bounds."""
    return get_type_hints(kind, include_extras=True)


def check_fields(values: Any) -> None:
    """Raises ValueError for a field of a dataclass outside of its annotation's bound or choices."""
    for name, annotation in annotations(values.__class__).items():
        value = getattr(values, name)
        if get_origin(annotation) is Annotated:
            least = annotation.__metadata__[0]
            if not value >= least:  # so that NaN is refused, too
                raise ValueError(f"{name} is at least {least}, not {value}")
        elif get_origin(annotation) is Literal and value not in get_args(annotation):
            raise ValueError(f"{name} is {' or '.join(get_args(annotation))}, not {value!r}")


def milestone_rate(recipe: Recipe, step: int) -> float:
    """The learning rate after `step` steps, by its drops."""
    return recipe.lr * recipe.factor ** sum(step >= drop for drop in recipe.drops)


def scaled_steps(recipe: Recipe, count: int, steps: int) -> int:
    """A number of steps in proportion to another budget, rounded up: no drop before a step."""
    return -(-count * steps // recipe.steps)


def with_steps(recipe: R, steps: int) -> R:
    """The recipe for another budget: drops and warm-up keep their proportions."""
    return replace(
        recipe,
        steps=steps,
        drops=tuple(scaled_steps(recipe, drop, steps) for drop in recipe.drops),
        warmup=(scaled_steps(recipe, recipe.warmup[0], steps), recipe.warmup[1]),
    )


def check_effect(recipe: Any, usual: Any, effects: dict[str, tuple[bool, str]]) -> None:
    """Raises ValueError for a field that was set to another value than the usual recipe has, and
    that changes nothing. `effects` says which fields have an effect here, and why not."""
    defaults = {field.name: field.default for field in fields(recipe)}
    for name, (effective, reason) in effects.items():
        value = getattr(recipe, name)
        off = isinstance(value, tuple) and not any(value[:1])  # such as 0,0.9: for no step
        if not effective and value not in (getattr(usual, name), defaults[name]) and not off:
            raise ValueError(f"{name}={in_text(value)} would change nothing here: {reason}")


def check_changes(recipe: R, changes: dict[str, Any]) -> dict[str, Any]:
    """Changes to the fields of a recipe, with lists as tuples. Raises ValueError."""
    kind = type(recipe)
    names = [f.name for f in fields(kind)]
    if unknown := sorted(changes.keys() - set(names)):
        raise ValueError(f"no field {unknown[0]!r} in a recipe; it has {', '.join(names)}")
    if refused := sorted(changes.keys() & kind.not_settable):
        raise ValueError(f"{refused[0]} is not set as a field of the recipe")
    typed = {name: tuple(v) if isinstance(v, list) else v for name, v in changes.items()}
    types = get_type_hints(kind)
    for name, value in typed.items():
        expected = types[name]
        if get_origin(expected) is tuple:  # its length is checked with the other fields
            expected = tuple[get_args(expected)[0], ...]  # type: ignore[misc]
        if not has_type(value, expected):
            raise ValueError(f"{name} is like {in_text(getattr(recipe, name))}, not {value!r}")
    return typed


def parse_assignment(kind: type[Recipe], assignment: str) -> tuple[str, Any]:
    """`field=value` as a field's name and its value. Raises ValueError."""
    name, equals, text = assignment.partition("=")
    settable = {f.name: f.default for f in fields(kind) if f.name not in kind.not_settable}
    if not equals or name not in settable:
        raise ValueError(
            f"{assignment!r} sets no field of a recipe; write field=value with "
            f"{', '.join(settable)}"
        )
    default = settable[name]
    try:
        return name, parse_like(text, default)
    except ValueError:
        raise ValueError(f"{name} is like {in_text(default)}, not {text!r}") from None


def parse_like(text: str, example: Any) -> Any:
    """The text as a value of the example's type. Raises ValueError."""
    if isinstance(example, bool):
        return ("false", "true").index(text.lower()) == 1
    if not isinstance(example, tuple):
        return type(example)(text)
    if isinstance(example[-1], float):  # (steps, value), such as warmup
        return tuple(type(a)(b) for a, b in zip(example, text.split(","), strict=True))
    return tuple(int(part) for part in text.split(",") if part)


def from_json(kind: type[R], values: dict[str, Any]) -> R:
    """A recipe from JSON. Raises ValueError for an unknown or missing field, or a wrong type."""
    types = get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    if unknown := sorted(values.keys() - names):
        raise ValueError(f"a recipe has no field {', '.join(unknown)}")
    required = {field.name for field in fields(kind) if field.default is MISSING}
    if missing := sorted(required - values.keys()):
        raise ValueError(f"a recipe needs {', '.join(missing)}")
    typed = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for name, value in typed.items():
        if not has_type(value, types[name]):
            raise ValueError(f"{name} of a recipe is no {value!r:.60}")
    return kind(**typed)  # type: ignore[arg-type]


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value fits an annotation: an int is a float, too; a bool is neither."""
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(value) if isinstance(value, tuple) else ()
        fits = isinstance(value, tuple) and len(value) == len(kinds)
        return fits and all(map(has_type, value, kinds))
    if kind is float and isinstance(value, int):
        kind = int if abs(value) < 2**53 else float
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def in_text(value: Any) -> str:
    """A field's value as on the command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def to_json(recipe: Any) -> dict[str, Any]:
    """A recipe as JSON has it: tuples are lists."""
    return json.loads(json.dumps(asdict(recipe)))  # type: ignore[no-any-return]
