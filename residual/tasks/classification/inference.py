"""The answers of networks to a set of images or photographs, on any number of processes."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from residual.data.batches import Preprocessing
from residual.data.crops import Crops, Each, Grid, Squares, Views, Wholes
from residual.data.datasets import Images, Photographs, Set
from residual.data.loader import TASK, read, tasks_of
from residual.data.progress import Progress
from residual.device import ComputeConfig
from residual.distributed import World, here
from residual.finite import WORDS, NotFinite, is_finite, refuse_answers
from residual.tasks.classification.metrics import Count, confusion, count
from residual.tasks.classification.protocols import PROTOCOLS, Average, Protocol

NO_ANSWER = -1  # of a picture that could not be read


@dataclass(frozen=True)
class Member:
    """A network of an ensemble; one network is the smallest ensemble."""

    net: nn.Module
    preprocessing: Callable[[Tensor], Tensor]  # pixels (N, 3, H, W) uint8 -> input
    order: Tensor | None = None  # (C,) where each class of the first network stands in this one
    name: str = "the network"

    def scores(self, pixels: Tensor) -> Tensor:
        """(N, C), in the order of the first network's classes."""
        return self._in_order(self.net(self.preprocessing(pixels)))

    def check(self, pixels: Tensor) -> None:
        """Raises NotFinite where a score is not finite, with the layer that it comes from."""
        inputs = self.preprocessing(pixels)
        if not is_finite(self.net(inputs)):
            refuse_answers(self.name, self.net, lambda: self.net.forward(inputs))

    def _in_order(self, scores: Tensor) -> Tensor:
        if scores.dtype != torch.float64:
            scores = scores.float()
        return scores if self.order is None else scores[:, self.order]


@dataclass
class Panel:
    """The members of an ensemble that look at the same views."""

    members: Sequence[Member]
    average: Average
    mirror: bool
    device: torch.device
    limit: int  # pixels of a micro-batch, which holds at least one view
    finite: list[Tensor] = field(default_factory=list)  # of each micro-batch since the last call

    def __call__(self, pixels: Tensor) -> Tensor:
        """Views (N, 3, H, W) uint8 -> (N, C), summed over the members and the mirrored views.

        Where memory is short, the micro-batch is halved for good. Raises RuntimeError where there
        is too little for a single view, and NotFinite, with the network and its layer, where a
        score is not finite.
        """
        sums: list[Tensor] = []
        area, done = pixels.shape[2] * pixels.shape[3], 0
        while done < len(pixels):
            part = pixels[done : done + max(1, self.limit // area)]
            found = self._within_memory(part)
            if found is None:
                if len(part) == 1:
                    raise RuntimeError(
                        f"a single picture of {pixels.shape[2]}x{pixels.shape[3]} pixels does not "
                        f"fit into the memory of {self.device}; smaller --sides would"
                    )
                self.limit = len(part) // 2 * area
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            sums.append(found)
            done += len(part)
        if not bool(torch.stack(self.finite).all()):
            self._refuse(pixels)
        self.finite.clear()
        return torch.cat(sums)

    def _refuse(self, pixels: Tensor) -> None:
        """Raises NotFinite: some score of these views is not finite."""
        for part in torch.split(pixels, max(1, self.limit // (pixels.shape[2] * pixels.shape[3]))):
            for views in self._views(part.to(self.device)):
                for member in self.members:
                    member.check(views)
        raise NotFinite(
            f"the answers of {', '.join(each.name for each in self.members)} hold {WORDS}"
        )

    def _within_memory(self, part: Tensor) -> Tensor | None:
        try:
            return self._said(part.to(self.device, non_blocking=True))
        except torch.OutOfMemoryError:
            return None

    def _views(self, pixels: Tensor) -> list[Tensor]:
        """The mirror is on the pixels, before a per-pixel mean is subtracted."""
        return [pixels, pixels.flip(-1)] if self.mirror else [pixels]

    def _said(self, pixels: Tensor) -> Tensor:
        views = self._views(pixels)
        said = [member.scores(view) for member in self.members for view in views]
        self.finite.append(torch.stack([scores.isfinite().all() for scores in said]).all())
        if self.average == "probabilities":
            said = [scores.softmax(dim=1) for scores in said]
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        total = said[0].to(exact)
        for more in said[1:]:
            total = total + more
        return total


@contextmanager
def judging(nets: Sequence[nn.Module]) -> Iterator[None]:
    """Networks in evaluation mode, without gradients; afterwards each has its mode again."""
    modes = [net.training for net in nets]
    try:
        with torch.inference_mode():
            for net in nets:
                net.eval()
            yield
    finally:
        for net, mode in zip(nets, modes, strict=True):
            net.train(mode)


def summed(
    panels: Sequence[Panel], seen_by: Sequence[int], pictures: Sequence[Sequence[Tensor]]
) -> tuple[Tensor, Tensor]:
    """What is said of each picture, summed over views and networks: (n, C), for n that were read.

    And which these n are (n,). A picture is its arrays (views, height, width, 3) uint8, the a-th of
    which the panel `seen_by[a]` looks at, or nothing where it is damaged. Views of one size go
    through the networks together, whichever pictures they are of.
    """
    read = [i for i, arrays in enumerate(pictures) if arrays]
    buckets: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
    for row, i in enumerate(read):
        for panel, array in zip(seen_by, pictures[i], strict=True):
            buckets[panel, *array.shape[1:3]].append((row, array))
    total: Tensor | None = None
    for (panel, *_), views in buckets.items():
        pixels = gathered([array for _, array in views], panels[panel].device)
        said = panels[panel](pixels.permute(0, 3, 1, 2))
        rows = torch.tensor([row for row, array in views for _ in range(len(array))])
        if total is None:
            total = said.new_zeros((len(read), said.shape[1]))
        total.index_add_(0, rows.to(said.device), said)
    return torch.empty(0, 1) if total is None else total, torch.tensor(read, dtype=torch.int64)


def gathered(arrays: Sequence[Tensor], device: torch.device) -> Tensor:
    """Arrays (views, H, W, 3) as one, from where it travels fast to the device."""
    shape = (sum(len(array) for array in arrays), *arrays[0].shape[1:])
    together = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    return torch.cat(list(arrays), out=together)


def best(scores: Tensor, k: int = 5) -> Tensor:
    """The k best classes (N, k), best first, of scores (N, C); fewer where there are fewer.

    Of equal scores the class of the lower number is the better one, on every device: topk promises
    no order.
    """
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


KEPT = 5  # answers of each image
# Photographs, and small images, that pass at once; a processor is as fast with few.
AT_ONCE, AT_ONCE_ON_A_PROCESSOR, SMALL_AT_ONCE = 64, 16, 500
ROUND = 16  # micro-batches of pixels wait in memory, to be put together by their sizes


@dataclass(frozen=True)
class Work:
    """How the work is done. None of it changes an answer."""

    how: ComputeConfig
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


def judged(net: Judged, images: Set, classes: int, work: Work) -> tuple[Count, Tensor, list[str]]:
    """The error on a set, the confusion matrix behind it, and the pictures that are damaged, on any
    number of processes."""
    found, labels = answers([net], images, PROTOCOLS["1crop"], work), images.labels.cpu()
    damaged, lost = [path for path, _ in images.damaged], unread(found)
    total = count(found, labels, damaged=len(damaged))
    if isinstance(images, Photographs):
        damaged += [images.name(i) for i in lost.tolist()]
    there = torch.ones(len(labels), dtype=torch.bool).index_fill(0, lost, False)
    return total, confusion(found[there, 0], labels[there], classes), damaged
