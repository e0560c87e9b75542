"""Boxes drawn on pictures, and many pictures on one sheet."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

# Sasha Trubetskoy, "List of 20 simple, distinct colors" (2017), but for white, black, grey, and the
# red and maroon, which would be taken for what is bad.
COLOURS = (
    "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4",
    "#469990", "#dcbeff", "#9a6324", "#ffe119", "#aaffc3", "#808000", "#ffd8b1", "#000075",
)  # fmt: skip
BAD = -1  # the label of a box that is none: dashed, and in a colour of its own
COLOUR_OF_BAD = "#ff0000"
LETTERS = 28  # lines of text would fill the shorter side
LEAST_LETTER = 10  # pixels; below it nobody can read
GAP = 6  # pixels between the pictures of a sheet
Place = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Pen:
    """What fits the size of a picture."""

    draw: ImageDraw.ImageDraw
    size: tuple[int, int]
    width: int
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont

    def extent(self, text: str) -> tuple[float, float]:
        """The (width, height) of a line of text, and a margin around it."""
        left, _, right, _ = self.font.getbbox(text)
        _, top, _, bottom = self.font.getbbox("Ag")  # the same for all words, so that they align
        return right - left + 2 * self.margin, bottom - top + 2 * self.margin

    @property
    def margin(self) -> int:
        return self.width + 1


def drawn(
    image: Image.Image, boxes: Tensor, captions: Sequence[str], labels: Sequence[int]
) -> Image.Image:
    """A copy of a picture with boxes (N, 4), each with its caption, and in the colour of its label.

    What lies beyond the border is drawn at the border. A box that has no place is not drawn.
    """
    image = image.convert("RGB")  # always a copy
    pen = pen_for(image)
    there: list[tuple[Place, str, str]] = []
    for box, caption, label in zip(boxes.tolist(), captions, labels, strict=True):
        colour = COLOUR_OF_BAD if label == BAD else COLOURS[label % len(COLOURS)]
        if (place := placed(box, pen, label == BAD)) is not None:
            outline(pen, place, colour, dashed=label == BAD)
            there.append((place, caption, colour))
    taken: list[Place] = []  # by captions, which come last, so that no line crosses them
    for place, caption, colour in there:
        if caption:
            taken.append(written(pen, place, caption, colour, taken))
    return image


def pen_for(image: Image.Image) -> Pen:
    shorter = min(image.size)
    letter = max(LEAST_LETTER, shorter / LETTERS)
    return Pen(
        ImageDraw.Draw(image), image.size, max(1, round(shorter / 240)),
        ImageFont.load_default(letter),
    )  # fmt: skip


def placed(box: list[float], pen: Pen, bad: bool) -> Place | None:
    """Where a box is drawn in the picture; nowhere if it has a side that is no number."""
    if any(map(math.isnan, box)):
        return None
    # An inverted or an empty box is made wide enough to be seen.
    spread = 7 * pen.width if bad else 0
    (left, right), (top, bottom) = sorted(box[0::2]), sorted(box[1::2])
    last = (pen.size[0] - 1, pen.size[1] - 1)
    return (
        min(max(left - spread, 0), last[0]),
        min(max(top - spread, 0), last[1]),
        min(max(right - 1 + spread, 0), last[0]),  # the last pixel inside
        min(max(bottom - 1 + spread, 0), last[1]),
    )


def outline(pen: Pen, place: Place, colour: str, dashed: bool) -> None:
    left, top, right, bottom = place
    if not dashed:
        pen.draw.rectangle((left, top, max(left, right), max(top, bottom)), None, colour, pen.width)
        return
    for line in (
        (left, top, right, top), (left, bottom, right, bottom),
        (left, top, left, bottom), (right, top, right, bottom),
    ):  # fmt: skip
        for dash in dashes(line, 3 * pen.width):
            pen.draw.line(dash, colour, pen.width + 1)


def dashes(line: Place, length: int) -> Iterator[Place]:
    """Pieces of a line, with gaps between them as long as they are."""
    x0, y0, x1, y1 = line
    whole = max(x1 - x0, y1 - y0)
    for start in range(0, int(whole) + 1, 2 * length):
        a, b = start / max(whole, 1), min(start + length, whole) / max(whole, 1)
        yield x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0)


# ---- words --------------------------------------------------------------------------------------


def written(pen: Pen, box: Place, caption: str, colour: str, taken: list[Place]) -> Place:
    """Write a caption at its box, where it covers the least of the others, and tell where."""
    places = list(beside(pen, box, pen.extent(caption)))
    place = min(places, key=lambda place: sum(shared(place, other) for other in taken))
    pen.draw.rectangle(place, colour)
    _, top, _, _ = pen.font.getbbox("Ag")
    at = (place[0] + pen.margin, place[1] + pen.margin - top)
    pen.draw.text(at, caption, "black" if bright(colour) else "white", pen.font)
    return place


def beside(pen: Pen, box: Place, extent: tuple[float, float]) -> Iterator[Place]:
    """Where a caption may stand, inside the picture: the best place first."""
    (left, top, right, bottom), (wide, high) = box, extent
    right, bottom = right - wide, bottom - high  # of a caption that ends there
    for x, y in (
        (left, top - high), (left, top), (right, top - high), (left, bottom + high),
        (right, top), (left, bottom), (right, bottom + high), (right, bottom),
        ((left + right) / 2, (top + bottom) / 2),
    ):  # fmt: skip
        x = min(max(x, 0), max(pen.size[0] - wide, 0))
        y = min(max(y, 0), max(pen.size[1] - high, 0))
        yield x, y, x + wide, y + high


def shared(a: Place, b: Place) -> float:
    """How many pixels two places have in common."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(wide, 0) * max(high, 0)


def bright(colour: str) -> bool:
    """Whether black is read better on a colour than white (by its luma, ITU-R BT.601)."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 128


# ---- sheets -------------------------------------------------------------------------------------


def sheet(pictures: Sequence[Image.Image], columns: int, width: int) -> Image.Image:
    """Pictures in rows of so many, on a white ground of this width; each as wide as its column."""
    cell = (width - GAP * (columns + 1)) // columns
    fitted = [ImageOps.contain(picture.convert("RGB"), (cell, 2 * cell)) for picture in pictures]
    rows = [fitted[i : i + columns] for i in range(0, len(fitted), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    whole = Image.new("RGB", (width, sum(heights) + GAP * (len(rows) + 1)), "white")
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            spare = (cell - picture.width) // 2
            whole.paste(picture, (GAP + column * (cell + GAP) + spare, top))
        top += height + GAP
    return whole


def titled(image: Image.Image, text: str) -> Image.Image:
    """A picture with a line under it, which is cut where it would be longer than the picture."""
    font = ImageFont.load_default(LEAST_LETTER + 2)
    while text and font.getlength(text) > image.width:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    _, _, _, bottom = font.getbbox("Ag")
    whole = Image.new("RGB", (image.width, image.height + int(bottom) + 4), "white")
    whole.paste(image, (0, 0))
    ImageDraw.Draw(whole).text((0, image.height + 1), text, "black", font)
    return whole
