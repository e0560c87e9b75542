"""What the names of files and folders mean: sets, pictures, hidden files; and lists of names."""

import re
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Literal

Split = Literal["train", "val", "test"]

# Every usual spelling of a set, in lower case and without separators, years and words like "set".
SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "minival"),
    "test": ("test", "testing", "tst", "testdev"),
}
SETS: tuple[Split, ...] = tuple(SPELLINGS)
SET_OF = {spelling: name for name, own in SPELLINGS.items() for spelling in own}
SEPARATORS = re.compile(r"[\s._-]+")
# What may follow: train2017, test1, val_set, training images, TrainData, valid-split.
SUFFIX = re.compile(r"(?:set|split|data|dataset|images?|imgs?|pictures|photos)?\d{0,4}")

# The formats that are read (`decode.FORMATS`), and how files of each are usually called. MPO is a
# JPEG with more pictures behind it, as telephones write.
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
EVERY_SUFFIX = tuple(dict.fromkeys(suffix for own in SUFFIXES.values() for suffix in own))
UTF16 = (b"\xff\xfe", b"\xfe\xff")  # byte order marks
# Folders of operating systems and archivers, which hold copies of names and small previews.
SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")


def set_of(name: str) -> Split | None:
    """The set that the name of a folder, or of a list without its ending, stands for."""
    letters = SEPARATORS.sub("", name.lower())
    for spelling, found in SET_OF.items():
        if letters.startswith(spelling) and SUFFIX.fullmatch(letters, len(spelling)):
            return found
    return None


def sets_among(names: Iterable[str], place: PathLike[str] | str) -> dict[Split, str]:
    """The names that stand for sets, by set, in the order train, val, test; others are left out.

    Raises ValueError where two names stand for one set, such as Train and train, or valid and dev.
    """
    found: dict[Split, str] = {}
    for name in sorted(names):
        own = set_of(name)
        if own is None:
            continue
        if own in found:
            raise ValueError(
                f"{shown(place)} has {shown(found[own])} and {shown(name)}, and both are names of "
                f"the {own} set; merge them, or give one another name"
            )
        found[own] = name
    return {own: found[own] for own in SETS if own in found}


def is_hidden(name: str) -> bool:
    """Whether a file or folder is not the user's: .git, ._cat.jpg, __MACOSX."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture; its contents decide how it is read."""
    return not is_hidden(name) and name.lower().endswith(EVERY_SUFFIX)


def fits(name: str, form: str) -> bool:
    """Whether a file of this format is usually called so."""
    return name.lower().endswith(SUFFIXES[form])


def encoded(name: str) -> bytes:
    """The bytes of a name, which need not be UTF-8 on the disk."""
    return name.encode("utf-8", "surrogateescape")


def decoded(name: bytes) -> str:
    """The inverse of `encoded`."""
    return name.decode("utf-8", "surrogateescape")


def readable(name: str) -> str:
    """A name as a class is called: every byte that is no UTF-8 as an escape, such as \\xfc."""
    return encoded(name).decode("utf-8", "backslashreplace")


def shown(name: PathLike[str] | str) -> str:
    """A name as a message shows it: an odd one by its `repr`, so that every character is seen."""
    text = str(name)
    return text if text and text.isprintable() and text == text.strip() else repr(text)


def text_of(raw: bytes) -> str:
    """A text that any program wrote, without its byte order mark, in UTF-8 or UTF-16."""
    if raw.startswith(UTF16):
        return raw.decode("utf-16", "replace")
    return decoded(raw.removeprefix(b"\xef\xbb\xbf"))


def lines_of(raw: bytes) -> Iterator[str]:
    """The entries of a list of names that any program wrote, in order, without empty ones.

    Lines end with LF, CRLF or CR, or entries with NUL (`find -print0`), and then are taken as they
    are. White space around a line, and quotes around a whole entry, are no part of it.
    """
    text = text_of(raw)
    # Not splitlines(), for which a name may not hold a form feed or a Unicode line separator.
    for entry in text.split("\0") if "\0" in text else re.split(r"\r\n|\r|\n", text):
        stripped = entry.strip() if "\0" not in text else entry.strip("\r\n")
        if len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
            stripped = stripped[1:-1]
        if stripped:
            yield stripped


def lines_from(stream: IO[bytes]) -> Iterator[str]:
    """The same of a list that is still being written, as far as it comes line by line."""
    for line in stream:
        if line.startswith(UTF16) or b"\0" in line:
            yield from lines_of(line + stream.read())
        else:
            yield from lines_of(line)


def lines_in(file: Path) -> Iterator[str]:
    """The entries of a list in a file: see `lines_of`. Raises OSError."""
    yield from lines_of(file.read_bytes())


def few(names: list[str], most: int = 3) -> str:
    """How many, and the first of them: `(12): ant, bee, cat and 9 more`."""
    rest = f" and {len(names) - most:,} more" if len(names) > most else ""
    return f"({len(names):,}): {', '.join(map(shown, names[:most]))}{rest}"
