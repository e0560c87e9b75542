"""Average precision of a detector, or of several as an ensemble, on a split of a data set."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residual.data.datasets import Progress
from residual.data.decode import DamagedImage
from residual.device import ComputeConfig, NonFiniteValues
from residual.distributed import World
from residual.tasks.detection import loader
from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.datasets import DetectionDataset
from residual.tasks.detection.inference import Look, detected
from residual.tasks.detection.load import Trained
from residual.tasks.detection.metrics import check_installed, judged
from residual.tasks.detection.recipe import Testing
from residual.training.values import to_json

NOTHING = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))


@dataclass(frozen=True)
class Work:
    """How detectors are asked about many pictures. Nothing here changes an answer."""

    how: ComputeConfig
    workers: int = 2  # threads that read pictures
    progress: Progress | None = None
    world: World = field(default_factory=World)


def check_together(nets: Sequence[Trained]) -> None:
    """Raises ValueError where detectors cannot answer as one."""
    for net in nets[1:]:
        if net.classes != nets[0].classes:
            raise ValueError(
                f"the detectors know other classes: {', '.join(nets[0].classes)}, and "
                f"{', '.join(net.classes)}"
            )
        for what in ("shorter", "longest"):
            one, other = getattr(nets[0].recipe, what), getattr(net.recipe, what)
            if one != other:
                raise ValueError(f"the detectors look at other sizes: {what} {one}, and {other}")


def looked(
    nets: Sequence[Trained], pictures: Sequence[loader.Seen], how: ComputeConfig
) -> list[Look]:
    """One picture, at one scale or several, as each detector sees it."""
    device = torch.device(how.device)
    looks = []
    for net in nets:
        before = net.preprocessing.to(device)
        images = [loader.input_of(each, before, device) for each in pictures]
        looks.append(Look(net.net, images, pictures[0].factors))
    return looks


def scales_of(nets: Sequence[Trained], testing: Testing) -> list[tuple[int, int]]:
    """(shorter, longest) of each scale at which a picture is read; the first is the training's."""
    recipe = nets[0].recipe
    own = [recipe.shorter, *(side for side in testing.scales if side != recipe.shorter)]
    return [(side, recipe.longest * side // recipe.shorter) for side in own]


@torch.no_grad()
def found_on(
    nets: Sequence[Trained], pictures: Sequence[loader.Seen], testing: Testing, how: ComputeConfig
) -> Detections:
    """What is found on a picture that was read at every scale, in its own pixels."""
    with how.activate(), how.autocast():
        looks = looked(nets, pictures, how)
        found = detected(looks, testing)
    boxes = found.boxes.cpu().float() / pictures[0].factors
    return Detections(boxes, found.scores.cpu().float(), found.labels.cpu())


def read_ahead(
    paths: Iterable[Path], sides: Sequence[tuple[int, int]], workers: int
) -> Iterator[Callable[[], list[loader.Seen]]]:
    """Of each picture what waits for it, at several scales, and raises what its reading raised; a
    few more are read meanwhile."""

    def read(path: Path) -> list[loader.Seen]:
        return [loader.seen(path, *each) for each in sides]

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        waiting: deque[Future[list[loader.Seen]]] = deque()
        for path in paths:
            waiting.append(pool.submit(read, path))
            if len(waiting) > 2 * max(workers, 1):
                yield waiting.popleft().result
        while waiting:
            yield waiting.popleft().result


def detections(
    nets: Sequence[Trained], scenes: DetectionDataset, testing: Testing, work: Work
) -> tuple[list[Detections], list[str]]:
    """What is found on every picture, on any number of processes; and a sentence for each picture
    that cannot be read, on which nothing is found."""
    sides, n = scales_of(nets, testing), len(scenes.examples)
    mine = list(work.world.shard(n))
    own: list[tuple[int, tuple[Tensor, Tensor, Tensor] | None, str]] = []
    paths = [scenes.examples[i].path for i in mine]
    trouble: NonFiniteValues | None = None
    for i, picture in zip(mine, read_ahead(paths, sides, work.workers), strict=True):
        try:
            found = found_on(nets, picture(), testing, work.how)
            own.append((i, (found.boxes, found.scores, found.labels), ""))
        except (DamagedImage, FileNotFoundError) as error:
            own.append((i, None, str(error)))
        except NonFiniteValues as error:
            trouble = error
            break
        if work.progress:
            work.progress(min(len(own) * work.world.size, n), n)
    work.world.raise_any(trouble)
    every = sorted(work.world.all_gather(own), key=lambda each: each[0])
    found_all = [Detections(*parts) if parts else NOTHING for _, parts, _ in every]
    return found_all, [why for *_, why in every if why]


def judge(
    nets: Sequence[Trained], scenes: DetectionDataset, testing: Testing, work: Work
) -> dict[str, Any]:
    """Average precision, and all that says what it is of. Raises ValueError where detectors and
    classes do not go together."""
    check_together(nets)
    if scenes.format == "coco":
        check_installed()
    if scenes.classes != nets[0].classes:
        raise ValueError(
            f"the detector knows {', '.join(nets[0].classes)}, and {scenes.name} has "
            f"{', '.join(scenes.classes)}"
        )
    placed = [net.placed(work.how) for net in nets]
    begun = time.perf_counter()
    found, damaged = detections(placed, scenes, testing, work)
    seconds = time.perf_counter() - begun
    return {
        "task": "detection",
        "networks": [net.recipe.network for net in nets],
        "data": {"name": scenes.name, "fingerprint": scenes.fingerprint},
        "testing": to_json(testing),
        "protocol": scenes.format,
        "seen": len(scenes.examples),
        "ap": judged(found, scenes),
        "pictures_per_second": round(len(found) / max(seconds, 1e-9), 2),
        "damaged": damaged,
        "ignored_boxes": list(scenes.skipped),
    }
