"""Images with boxes and captions drawn on them, and contact sheets of images."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from residual.storage import write_atomic

# Sasha Trubetskoy, "List of 20 simple, distinct colors" (2017), without white, black, grey, and
# the red and maroon, which could be occupied for the color of bad boxes.
COLORS = (
    "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#bfef45", "#fabed4",
    "#469990", "#dcbeff", "#9a6324", "#ffe119", "#aaffc3", "#808000", "#ffd8b1", "#000075",
)  # fmt: skip
BAD = -1  # the label of a bad box: filled, and in a color of its own
BAD_COLOR = "#ff0000"
LINES = 28  # of text would fill the shorter side
MIN_FONT_SIZE = 10
PADDING = 6  # pixels between the images of a sheet
Place = tuple[float, float, float, float]  # left, top, right, bottom


def draw_boxes(
    image: Image.Image, boxes: Tensor, captions: Sequence[str], labels: Sequence[int]
) -> Image.Image:
    """A copy of an image with boxes (N, 4), each with its caption and in the color of its label.

    Boxes are clipped to the image; those with a NaN are left out. Bad boxes are made larger.
    """
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
    from torchvision.utils import draw_bounding_boxes

    canvas, shorter = pil_to_tensor(image.convert("RGB")), min(image.size)
    line = max(1, round(shorter / 240))
    rows = [i for i in range(len(boxes)) if not boxes[i].isnan().any()]
    colors = [BAD_COLOR if labels[i] == BAD else COLORS[labels[i] % len(COLORS)] for i in rows]
    margin = torch.tensor([7 * line if labels[i] == BAD else 0 for i in rows])[:, None]
    points = boxes[rows].view(-1, 2, 2)
    first = points.amin(dim=1) - margin  # of an inverted box, too
    last = (points.amax(dim=1) - 1 + margin).maximum(first)
    border = torch.tensor(image.size) - 1
    placed = torch.cat([p.clamp(min=0).minimum(border) for p in (first, last)], dim=1)
    for bad in (False, True):
        some = [i for i, color in enumerate(colors) if (color == BAD_COLOR) == bad]
        if some:
            chosen = [colors[i] for i in some]
            canvas = draw_bounding_boxes(canvas, placed[some], colors=chosen, width=line, fill=bad)
    captioned = [i for i, row in enumerate(rows) if captions[row]]
    if captioned:  # last, so that no line crosses a caption
        texts, grounds = [captions[rows[i]] for i in captioned], [colors[i] for i in captioned]
        font = ImageFont.truetype(font_file(), max(MIN_FONT_SIZE, round(shorter / LINES)))
        origins = caption_origins(placed[captioned].tolist(), texts, font, image.size)
        canvas = draw_bounding_boxes(
            canvas, torch.tensor(list(origins)).repeat(1, 2), texts, grounds, width=0,
            font=font_file(), font_size=int(font.size), fill_labels=True,
            label_colors=["black" if is_bright(color) else "white" for color in grounds],
        )  # fmt: skip
    drawn: Image.Image = to_pil_image(canvas)
    return drawn


def font_file() -> str:
    """DejaVu Sans, which has the letters of most languages and comes with matplotlib."""
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


def caption_origins(
    boxes: list[Place], texts: list[str], font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> Iterator[tuple[float, float]]:
    """The (x, y) at which torchvision writes each text: at its box and inside the image, where it
    covers the least of the captions before it."""
    occupied: list[Place] = []
    for (left, top, right, bottom), text in zip(boxes, texts, strict=True):
        x0, y0, x1, y1 = font.getbbox(text)
        width, height = x1 - x0 + 2, y1 - y0 + 2  # with torchvision's margin
        places = []
        for y in (top - height, top, bottom, bottom - height):
            for x in (left, right - width):
                x, y = (min(max(x, 0), size[0] - 1 - width), min(max(y, 0), size[1] - 1 - height))
                places.append((x, y, x + width, y + height))
        best = min(places, key=lambda place: sum(shared_area(place, other) for other in occupied))
        occupied.append(best)
        yield best[0] - x0, best[1] - y0


def shared_area(a: Place, b: Place) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0)


def is_bright(color: str) -> bool:
    """Whether black is read better on a color than white (by its luma, ITU-R BT.601)."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue > 128


def contact_sheet(images: Sequence[Image.Image], columns: int, width: int) -> Image.Image:
    """Images in rows of so many, on a white ground of about this width."""
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
    from torchvision.utils import make_grid

    cell = (width - PADDING) // columns - PADDING
    height = max(ImageOps.contain(image, (cell, cell)).height for image in images)
    cells = [
        pil_to_tensor(ImageOps.pad(image.convert("RGB"), (cell, height), color="white"))
        for image in images
    ]
    sheet: Image.Image = to_pil_image(make_grid(cells, columns, PADDING, pad_value=255))
    return sheet


def add_title(image: Image.Image, text: str) -> Image.Image:
    """An image with a line of text below it, cut to the width of the image."""
    font = ImageFont.truetype(font_file(), MIN_FONT_SIZE + 2)
    while text and font.getlength(text) > image.width:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    titled = Image.new("RGB", (image.width, image.height + int(font.size) + 6), "white")
    titled.paste(image, (0, 0))
    ImageDraw.Draw(titled).text((0, image.height + 1), text, "black", font)
    return titled


def write_drawing(image: Image.Image, folder: Path, name: str, written: set[Path]) -> Path:
    """Write NAME.png, or NAME-2.png and so on where files of these names were written before."""
    path, n = folder / f"{name}.png", 1
    while path in written:
        n += 1
        path = folder / f"{name}-{n}.png"
    written.add(path)
    write_atomic(path, png(image))
    return path


def png(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
