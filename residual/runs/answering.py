"""The answers of networks to a set of images or photographs, on any number of processes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from residual.data.batches import Preprocessing
from residual.data.images import Images, Set
from residual.data.photographs import Photographs
from residual.data.progress import Progress
from residual.data.views import Crops, Each, Grid, Squares, Views, Wholes
from residual.data.workers import TASK, read, tasks_of
from residual.evaluation.panel import NO_ANSWER, Member, Panel, best, judging, summed
from residual.evaluation.protocols import Protocol
from residual.finite import NotFinite
from residual.world import Setting, World, here

KEPT = 5  # answers of each image
# Photographs, and small images, that pass at once; a processor is as fast with few.
AT_ONCE, AT_ONCE_ON_A_PROCESSOR, SMALL_AT_ONCE = 64, 16, 500
ROUND = 16  # micro-batches of pixels wait in memory, to be put together by their sizes


@dataclass(frozen=True)
class Work:
    """How the work is done. None of it changes an answer."""

    how: Setting
    workers: int = 0  # processes that decode photographs
    micro_batch: int = 0  # images of the network's size that pass at once; 0: as said above
    progress: Progress | None = None
    world: World = field(default_factory=here)

    @property
    def device(self) -> torch.device:
        return torch.device(self.how.device)


@dataclass(frozen=True)
class Judged:
    """A network that is looked at, with what its images go through before."""

    net: nn.Module
    preprocessing: Preprocessing
    order: Tensor | None = None  # (C,) where each class of the first network stands in this one
    name: str = "the network"

    def member(self, device: torch.device, whole: bool = False) -> Member:
        """In the network's own precision; for crops, or for whole pictures."""
        precision, before = next(self.net.parameters()).dtype, self.preprocessing.to(device)
        if precision == torch.float64:
            before = before.exact()
        before = before.of_any_size() if whole else before
        order = None if self.order is None else self.order.to(device)
        return Member(self.net, before, order, self.name)


@dataclass(frozen=True)
class Round:
    """So many images, of which some were read, and what the networks say of those."""

    ids: Sequence[int]
    sums: Tensor  # (n, C)
    read: Tensor  # (n,) which of the ids


def answers(nets: Sequence[Judged], images: Set, protocol: Protocol, work: Work) -> Tensor:
    """The five best classes (N, 5) of each image, best first.

    Where there are fewer classes, and for a picture that cannot be read, NO_ANSWER stands. Every
    process looks at its share of the images, and every one gets all answers. The arithmetic is that
    of the work's setting, whatever the process is set to. Raises NotFinite, in every process, where
    a score is not finite.
    """
    n, own = len(images), work.world.share(len(images))
    # Zero wherever nothing was written, so that the shares of all processes add up to the whole.
    table = torch.zeros((n, KEPT + 1), dtype=torch.int64, device=work.device)
    trouble: NotFinite | None = None
    how, progress, done = work.how, work.progress, 0
    try:
        with how.applied(), how.autocast(), judging([each.net for each in nets]):
            for each in rounds(nets, images, own, protocol, work):
                ids = torch.tensor(each.ids)
                table[ids.to(work.device), KEPT] += 1
                if len(each.read):
                    found = best(each.sums, KEPT)
                    table[ids[each.read].to(work.device), : found.shape[1]] = found + 1
                done += len(each.ids)
                if progress is not None:
                    progress(done, len(own))
    except NotFinite as error:
        trouble = error
    work.world.raise_together(trouble)
    whole = work.world.summed(table.cpu())
    if not bool((whole[:, KEPT] == 1).all()):
        raise RuntimeError("some images were judged twice or not at all; this is a fault of ours")
    return whole[:, :KEPT] - 1


def rounds(
    nets: Sequence[Judged], images: Set, own: range, protocol: Protocol, work: Work
) -> Iterator[Round]:
    """This process's share of the images."""
    if isinstance(images, Photographs):
        return of_photographs(nets, images, own, protocol, work)
    return of_images(nets, images, own, protocol, work)


def of_images(
    nets: Sequence[Judged], images: Images, own: range, protocol: Protocol, work: Work
) -> Iterator[Round]:
    """Small images in memory, as they are (Sec. 4.2)."""
    at_once, (height, width) = work.micro_batch or SMALL_AT_ONCE, images.pixels.shape[2:]
    members = [each.member(work.device) for each in nets]
    limit = at_once * height * width
    panel = Panel(members, protocol.average, protocol.mirror, work.device, limit)
    pixels = images.to(work.device).pixels
    for start in range(0, len(own), at_once):
        ids = own[start : start + at_once]
        sums = panel(pixels[ids.start : ids.stop : ids.step])
        yield Round(ids, sums, torch.arange(len(ids)))


def of_photographs(
    nets: Sequence[Judged], images: Photographs, own: range, protocol: Protocol, work: Work
) -> Iterator[Round]:
    """Photographs of any size; networks with the same resize look at the same views."""
    height, width = nets[0].preprocessing.size
    usual = AT_ONCE_ON_A_PROCESSOR if work.device.type == "cpu" else AT_ONCE
    limit = (work.micro_batch or usual) * height * width
    groups: dict[tuple[int, ...], list[Member]] = {}
    for each in nets:
        member = each.member(work.device, protocol.whole)
        groups.setdefault(sides(each.preprocessing, protocol), []).append(member)
    panels = [
        Panel(members, protocol.average, protocol.mirror, work.device, limit)
        for members in groups.values()
    ]
    seen_by = [number for number, own_sides in enumerate(groups) for _ in own_sides]
    cut = Each([cut_of(own_sides, (height, width), protocol) for own_sides in groups])
    tasks = tasks_of(own, [0] * len(own), max(1, TASK * height * width // cut.pixels))
    ids: list[int] = []
    pictures: list[list[Tensor]] = []
    held = 0
    for done in read(images, cut, tasks, work.workers):
        ids += done.ids
        pictures += done.cuts
        held += len(done.flat) // 3
        if held >= ROUND * limit:
            yield Round(ids, *summed(panels, seen_by, pictures))
            ids, pictures, held = [], [], 0
    if ids:
        yield Round(ids, *summed(panels, seen_by, pictures))


def sides(before: Preprocessing, protocol: Protocol) -> tuple[int, ...]:
    """The shorter sides of the photographs that a network looks at."""
    size = min(before.size)
    if not protocol.sides:
        return (before.shorter or size,)
    return protocol.sides if protocol.asked else protocol.in_proportion(size)


def cut_of(own: tuple[int, ...], size: tuple[int, int], protocol: Protocol) -> Views:
    """How photographs are cut for a protocol."""
    match protocol.cut:
        case "whole":
            return Wholes(own)
        case "squares":
            return Squares(size, own)
        case "grid":
            return Grid(size, own)
        case "centre" | "corners":
            return Crops(size, own, corners=protocol.cut == "corners")


def unread(found: Tensor) -> Tensor:
    """Which of the images (N, 5) had no answer: (n,)."""
    return (found[:, 0] == NO_ANSWER).nonzero()[:, 0]
