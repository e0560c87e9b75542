"""What a fuzz test gives a reader: whole files damaged in usual ways and in odd ones; and what it
watches while the reader reads."""

import faulthandler
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# In the suite so many examples of each kind, always the same; `make fuzz` sets this to more.
LONGER = int(os.environ.get("RESIDUAL_FUZZ", "0"))
EXAMPLES = LONGER or 100
FUZZ = settings(
    max_examples=EXAMPLES,
    derandomize=not LONGER,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
SECONDS = 60  # for one example of a longer fuzz: whatever takes more hangs
ROOM = 96 << 20  # bytes that reading a small file may take, beside 20 times its length

NUMBERS = [0, 1, 7, 255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**64 - 1]
PARTS = [b"\0", b"\xff" * 8, b"[" * 20_000, b"{" * 9, b"-1", b"1e999", b"NaN", b"null", b'"', b"\n"]


@st.composite
def damaged(draw: Callable[..., Any], whole: list[bytes], parts: list[bytes]) -> bytes:
    """One of some whole files with a few changes, or arbitrary bytes."""
    raw = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        kind = draw(
            st.sampled_from(["bit", "byte", "number", "cut", "out", "again", "in", "other"])
        )
        match kind:
            case "bit" if at < len(raw):
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if at < len(raw):
                raw[at] = draw(st.sampled_from([0, 1, 127, 128, 254, 255]))
            case "number":
                size, order = (
                    draw(st.sampled_from([1, 2, 4, 8])),
                    draw(st.sampled_from(["little", "big"])),
                )
                number = draw(st.sampled_from(NUMBERS)) % 2 ** (8 * size)
                raw[at : at + size] = number.to_bytes(size, order)
            case "cut":
                del raw[at:]
            case "out":
                del raw[at : at + draw(st.integers(1, 64))]
            case "again":
                raw[at:at] = raw[at : at + draw(st.integers(1, 64))] * draw(st.integers(1, 3))
            case "in":
                raw[at:at] = draw(st.one_of(st.sampled_from(PARTS + parts), st.binary(max_size=16)))
            case "other":
                raw[at:] = draw(st.sampled_from(whole))[at:]
    return bytes(raw) if raw else draw(st.binary(max_size=64))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 9), st.sampled_from([-1, *NUMBERS, 10**400]),
    st.floats(allow_nan=True), st.text(max_size=8), st.sampled_from(["", "\0", "\ud800", "a/../b"]),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inside: st.one_of(
        st.lists(inside, max_size=3), st.dictionaries(st.text(max_size=4), inside, max_size=3)
    ),
    max_leaves=5,
)


@st.composite
def changed(draw: Callable[..., Any], whole: Any) -> Any:
    """A JSON value, of which one or two parts are other JSON values, or missing, or there twice."""
    value = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 2))):
        places = list(nodes(value))
        if not places:
            return draw(VALUES)
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(["value", "value", "missing", "twice", "all"])):
            case "value":
                holder[key] = draw(VALUES)
            case "missing":
                del holder[key]
            case "twice" if isinstance(holder, list):
                holder.append(holder[key])
            case "all":
                return draw(VALUES)
    return value


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value, as what holds it and its key there."""
    for key in (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    ):
        yield value, key
        yield from nodes(value[key])


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def watched(length: int, name: str) -> Iterator[None]:
    """Around the reading of so many bytes: it may raise ValueError or OSError with a sentence that
    has this name, but take no more memory than they explain, and in a longer fuzz not hang."""
    if LONGER:
        faulthandler.dump_traceback_later(SECONDS, exit=True)
    before = peak(anew=True)
    try:
        yield
    except (ValueError, OSError) as error:
        assert str(error) and name in str(error), repr(error)
        assert not isinstance(error, UnicodeError | json.JSONDecodeError), repr(error)
    finally:
        if LONGER:
            faulthandler.cancel_dump_traceback_later()
    assert peak() - before < ROOM + 20 * length


def peak(anew: bool = False) -> int:
    """The most memory that this process had since it was last asked anew; 0 where it cannot be
    asked."""
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        words = Path("/proc/self/status").read_text().split()
    except OSError:
        return 0
    return 1024 * int(words[words.index("VmHWM:") + 1])
