"""What a detector finds on pictures, as it is printed and drawn."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from residual.data.decode import DamagedImage
from residual.data.decode import open_image as seen_picture
from residual.device import ComputeConfig
from residual.storage import write_atomic
from residual.tasks.detection import loader
from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.drawing import drawn
from residual.tasks.detection.evaluate import check_together, found_on, scales_of
from residual.tasks.detection.load import Trained
from residual.tasks.detection.recipe import Testing

Finder = Callable[[Path], Detections]  # of a picture, boxes in its own pixels


def finder(nets: Sequence[Trained], testing: Testing, how: ComputeConfig) -> Finder:
    """One detector, or several as an ensemble. Raises ValueError where they do not go together."""
    check_together(nets)
    placed = [net.placed(how) for net in nets]
    sides = scales_of(nets, testing)

    def find(path: Path) -> Detections:
        pictures = [loader.seen(path, *each) for each in sides]
        return found_on(placed, pictures, testing, how)

    return find


def answers(
    find: Finder,
    classes: Sequence[str],
    pictures: Iterable[Path],
    least: float,
    folder: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Of each picture: `image`, and `objects` (`label`, `score`, `box`: left, top, right, bottom in
    pixels) of at least this score, the best first; or `error`. With a folder, pictures with their
    boxes are written there as NAME-boxes.png."""
    written: set[Path] = set()
    for path in pictures:
        try:
            found = find(path)
        except (DamagedImage, OSError) as error:
            yield {"image": str(path), "error": str(error)}
            continue
        keep = found.scores >= least
        found = Detections(found.boxes[keep], found.scores[keep], found.labels[keep])
        answer: dict[str, Any] = {"image": str(path), "objects": objects(found, classes)}
        if folder is not None:
            to, n = folder / f"{path.stem}-boxes.png", 1
            while to in written:
                n += 1
                to = folder / f"{path.stem}-boxes-{n}.png"
            written.add(to)
            captions = [
                f"{classes[label]} {score:.2f}"
                for label, score in zip(found.labels.tolist(), found.scores.tolist(), strict=True)
            ]
            image = drawn(seen_picture(path), found.boxes, captions, found.labels.tolist())
            content = BytesIO()
            image.save(content, "PNG")
            write_atomic(to, content.getvalue())
            answer["drawing"] = str(to)
        yield answer


def objects(found: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    """What was found, for JSON."""
    return [
        {
            "label": classes[label],
            "score": round(score, 4),
            "box": [round(side, 2) for side in box],
        }
        for box, score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        )
    ]
