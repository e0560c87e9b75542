"""What all recipes have in common: fields with bounds, read from words and written as JSON."""

import json
from dataclasses import MISSING, asdict, fields
from typing import Any, get_args, get_origin, get_type_hints


def bounded(recipe: Any, least: dict[str, float], choices: dict[str, tuple[str, ...]]) -> None:
    """Raises ValueError for a field that is below its bound or none of its words."""
    for name, bound in least.items():
        if not getattr(recipe, name) >= bound:  # so that nan is refused, too
            raise ValueError(f"{name} is at least {bound}, not {getattr(recipe, name)}")
    for name, words in choices.items():
        if getattr(recipe, name) not in words:
            raise ValueError(f"{name} is {' or '.join(words)}, not {getattr(recipe, name)!r}")


def refuse_idle(recipe: Any, usual: Any, acting: dict[str, tuple[bool, str]]) -> None:
    """Raises ValueError for a field that was set to another value than the usual recipe has, and
    that changes nothing. `acting` says of fields whether they do anything here, and why not."""
    plain = {field.name: field.default for field in fields(recipe)}
    for name, (acts, why) in acting.items():
        value = getattr(recipe, name)
        off = isinstance(value, tuple) and not any(value[:1])  # as 0,0.9: for none of the steps
        if not acts and value not in (getattr(usual, name), plain[name]) and not off:
            raise ValueError(f"{name}={in_text(value)} would change nothing here: {why}")


def assigned(kind: Any, assignment: str, fixed: set[str]) -> tuple[str, Any]:
    """The same for any kind of recipe, of which some fields are not set like this."""
    name, equals, text = assignment.partition("=")
    settable = {field.name: field.default for field in fields(kind) if field.name not in fixed}
    if not equals or name not in settable:
        raise ValueError(
            f"{assignment!r} sets no field of a recipe; write field=value with "
            f"{', '.join(settable)}"
        )
    default = settable[name]
    try:
        return name, value_like(text, default)
    except ValueError:
        raise ValueError(f"{name} is like {in_text(default)}, not {text!r}") from None


def value_like(text: str, like: Any) -> Any:
    """The text as a value of the same type as another. Raises ValueError where it is none."""
    if isinstance(like, bool):
        return ("false", "true").index(text.lower()) == 1
    if not isinstance(like, tuple):
        return type(like)(text)
    if isinstance(like[-1], float):  # warm-up: so many steps, at this rate
        return tuple(type(a)(b) for a, b in zip(like, text.split(","), strict=True))
    return tuple(int(part) for part in text.split(",") if part)


def from_json(kind: Any, values: dict[str, Any]) -> Any:
    """A recipe as it was written. Raises ValueError for a field that it has not, or of another
    type."""
    types = get_type_hints(kind)
    if unknown := sorted(values.keys() - types.keys()):
        raise ValueError(f"a recipe has no field {', '.join(unknown)}")
    required = {field.name for field in fields(kind) if field.default is MISSING}
    if absent := sorted(required - values.keys()):
        raise ValueError(f"a recipe needs {', '.join(absent)}")
    own = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for name, value in own.items():
        if not is_a(value, types[name]):
            raise ValueError(f"{name} of a recipe is no {value!r:.60}")
    return kind(**own)


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field: a whole number is a float, too, and no truth is."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(value) if isinstance(value, tuple) else ()
        same = isinstance(value, tuple) and len(value) == len(kinds)
        return same and all(map(is_a, value, kinds))
    if kind is float and isinstance(value, int):
        kind = int if abs(value) < 2**53 else float
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def in_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def to_json(recipe: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(recipe)))  # type: ignore[no-any-return]
