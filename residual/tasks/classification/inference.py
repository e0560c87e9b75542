"""Inference by an ensemble: class scores summed over members and views, each image exactly once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from residual.data.datasets import ImageFiles, ImageSet, Progress, no_progress
from residual.data.loader import IMAGES_PER_TASK, make_tasks, read_crops
from residual.data.normalization import Preprocessing
from residual.data.test_crops import Views
from residual.device import NON_FINITE, ComputeConfig, NonFiniteValues, is_finite, raise_non_finite
from residual.distributed import World, current_world
from residual.tasks.classification.metrics import top_k
from residual.tasks.classification.protocols import Protocol

TOP = 5  # answers of each image
NO_ANSWER = -1  # in place of a class, for a damaged picture
# Some images, those of them that could be read, and the scores (n, C) of these, summed over members
# and views.
Scores = tuple[Sequence[int], Sequence[int], Tensor]
# Images that pass at once: photographs on a GPU, on a CPU (as fast with few), small images.
BATCH, CPU_BATCH, SMALL_BATCH = 64, 16, 500
WAITING = 16  # micro-batches of decoded views that wait to be batched by their sizes


@dataclass(frozen=True)
class InferenceOptions:
    """Where inference runs, and in which batches. None of it changes an answer."""

    config: ComputeConfig
    workers: int = 0  # processes that decode photographs
    micro_batch: int = 0  # images of the network's size that pass at once; 0: chosen by the device
    progress: Progress = no_progress
    world: World = field(default_factory=current_world)

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)


@dataclass(frozen=True)
class Member:
    """A network of an ensemble, with its preprocessing. One network is the smallest ensemble."""

    net: nn.Module
    preprocessing: Preprocessing
    order: Tensor | None = None  # (C,) index of each class of the first member in this one
    name: str = "the network"

    def prepared(self, device: torch.device, fully_convolutional: bool) -> "Member":
        """The member with preprocessing on a device, in the precision of its weights, for crops or
        for whole pictures."""
        preprocessing = self.preprocessing.to(device)
        if next(self.net.parameters()).dtype == torch.float64:
            preprocessing = preprocessing.double()
        if fully_convolutional:
            preprocessing = preprocessing.with_channel_mean()
        order = None if self.order is None else self.order.to(device)
        return replace(self, preprocessing=preprocessing, order=order)

    def scores(self, pixels: Tensor) -> Tensor:
        """Views (N, 3, H, W) uint8 -> scores (N, C), in the order of the first member's classes."""
        scores: Tensor = self.net(self.preprocessing(pixels))
        if scores.dtype != torch.float64:
            scores = scores.float()
        return scores if self.order is None else scores[:, self.order]


@dataclass(eq=False)
class Ensemble:
    """Members that see the same views."""

    members: Sequence[Member]
    protocol: Protocol
    device: torch.device
    limit: int  # pixels of a micro-batch, which holds at least one view

    def __call__(self, pixels: Tensor) -> Tensor:
        """Views (N, 3, H, W) uint8 -> (N, C), summed over members and mirrored views.

        Where memory is short, the micro-batch is halved for good. Raises RuntimeError where a
        single view does not fit, and NonFiniteValues where a score is not finite.
        """
        area, done = pixels.shape[2] * pixels.shape[3], 0
        sums: list[Tensor] = []
        finite: list[Tensor] = []
        while done < len(pixels):
            part = pixels[done : done + max(1, self.limit // area)]
            try:
                for results, result in zip((sums, finite), self._sum(part), strict=True):
                    results.append(result)
                done += len(part)
                continue
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise RuntimeError(
                        f"a single picture of {pixels.shape[2]}x{pixels.shape[3]} pixels does not "
                        f"fit into the memory of {self.device}; smaller --sides would"
                    ) from None
            self.limit = len(part) // 2 * area
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        if not bool(torch.stack(finite).all()):
            self._refuse(torch.split(pixels, max(1, self.limit // area)))
        return torch.cat(sums)

    def _views(self, pixels: Tensor) -> list[Tensor]:
        """The views on the device, mirrored before a per-pixel mean is subtracted."""
        pixels = pixels.to(self.device, non_blocking=True)
        return [pixels, pixels.flip(-1)] if self.protocol.mirror else [pixels]

    def _sum(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The sum (N, C) over members and mirrored views, and whether all scores are finite."""
        views = self._views(pixels)
        scores = [member.scores(view) for member in self.members for view in views]
        finite = torch.stack([part.isfinite().all() for part in scores]).all()
        if self.protocol.average == "probabilities":
            scores = [part.softmax(dim=1) for part in scores]
        total = scores[0].to(torch.float32 if self.device.type == "mps" else torch.float64)
        for part in scores[1:]:
            total = total + part
        return total, finite

    def _refuse(self, parts: Sequence[Tensor]) -> None:
        """Raises NonFiniteValues with the network and the layer that it comes from."""
        for view in (view for part in parts for view in self._views(part)):
            for member in self.members:
                inputs = member.preprocessing(view)
                if not is_finite(member.net(inputs)):
                    raise_non_finite(member.name, member.net, partial(member.net.forward, inputs))
        names = ", ".join(member.name for member in self.members)
        raise NonFiniteValues(f"the answers of {names} hold {NON_FINITE}")


def answers(
    members: Sequence[Member], images: ImageSet, protocol: Protocol, options: InferenceOptions
) -> Tensor:
    """The five best classes (N, 5) of each image, best first, in every process.

    NO_ANSWER fills the row of a damaged picture, and the places behind fewer classes. Each process
    evaluates its share of the images. Raises NonFiniteValues, in each process, if a score is not
    finite.
    """
    total, done = len(options.world.shard(len(images))), 0
    # The answers plus one, and how often an image was seen. Rows of other processes stay zero.
    table = torch.zeros((len(images), TOP + 1), dtype=torch.int64, device=options.device)
    error: NonFiniteValues | None = None
    try:
        nets = [member.net for member in members]
        with options.config.activate(), options.config.autocast(), evaluation_mode(nets):
            for ids, read, scores in class_scores(members, images, protocol, options):
                table[torch.tensor(ids, device=options.device), TOP] += 1
                if read:
                    best = top_k(scores, TOP)
                    table[torch.tensor(read, device=options.device), : best.shape[1]] = best + 1
                done += len(ids)
                options.progress(done, total)
    except NonFiniteValues as not_finite:
        error = not_finite
    options.world.raise_any(error)
    table = options.world.all_reduce(table.cpu())
    if not bool((table[:, TOP] == 1).all()):
        raise RuntimeError("some images were seen twice or not at all; this is a fault of ours")
    return table[:, :TOP] - 1


@contextmanager
def evaluation_mode(nets: Sequence[nn.Module]) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each module has its mode again."""
    modes = [(module, module.training) for net in nets for module in net.modules()]
    try:
        with torch.inference_mode():
            for net in nets:
                net.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def class_scores(
    members: Sequence[Member], images: ImageSet, protocol: Protocol, options: InferenceOptions
) -> Iterator[Scores]:
    """Class scores of this process's share of the images, batch by batch."""
    if isinstance(images, ImageFiles):
        yield from photograph_scores(members, images, protocol, options)
        return
    # Small images in memory have one view (Sec. 4.2).
    ids = options.world.shard(len(images))
    batch, pixels = options.micro_batch or SMALL_BATCH, images.to(options.device).pixels
    limit = batch * pixels.shape[2] * pixels.shape[3]
    members = [member.prepared(options.device, fully_convolutional=False) for member in members]
    ensemble = Ensemble(members, protocol, options.device, limit)
    for start in range(0, len(ids), batch):
        part = ids[start : start + batch]
        yield part, part, ensemble(pixels[part.start : part.stop : part.step])


def photograph_scores(
    members: Sequence[Member], images: ImageFiles, protocol: Protocol, options: InferenceOptions
) -> Iterator[Scores]:
    """Class scores of photographs. Members with the same resize see the same views."""
    ids, device = options.world.shard(len(images)), options.device
    size = members[0].preprocessing.size
    area = size[0] * size[1]
    limit = (options.micro_batch or (CPU_BATCH if device.type == "cpu" else BATCH)) * area
    groups: dict[tuple[int, ...], list[Member]] = defaultdict(list)
    for member in members:
        sides = protocol.shorter_sides(member.preprocessing)
        groups[sides].append(member.prepared(device, protocol.fully_convolutional))
    ensembles = [
        ensemble
        for sides, group in groups.items()
        for ensemble in [Ensemble(group, protocol, device, limit)] * len(sides)
    ]  # one for each shorter side
    views = Views(protocol.cut, size, tuple(side for sides in groups for side in sides))
    tasks = make_tasks(ids, [0] * len(ids), max(1, IMAGES_PER_TASK * area // views.pixels))
    batch: list[int] = []
    pictures: dict[int, list[Tensor]] = {}  # those that could be read
    waiting = 0  # pixels
    for done in read_crops(images, views, tasks, options.workers):
        batch += done.ids
        pictures |= {i: cuts for i, cuts in zip(done.ids, done.cuts, strict=True) if cuts}
        waiting += len(done.flat) // 3
        if waiting >= WAITING * limit:
            yield batch, list(pictures), sum_views(ensembles, list(pictures.values()))
            batch, pictures, waiting = [], {}, 0
    if batch:
        yield batch, list(pictures), sum_views(ensembles, list(pictures.values()))


def sum_views(ensembles: Sequence[Ensemble], pictures: Sequence[Sequence[Tensor]]) -> Tensor:
    """Scores (n, C) of pictures, summed over views. A picture is one array (views, H, W, 3) uint8
    for each ensemble. Views of one size pass together, whichever pictures they are of."""
    by_size: dict[tuple[Ensemble, int, int], list[tuple[int, Tensor]]] = defaultdict(list)
    for row, arrays in enumerate(pictures):
        for ensemble, array in zip(ensembles, arrays, strict=True):
            by_size[ensemble, array.shape[1], array.shape[2]].append((row, array))
    total = torch.empty(0, 1)
    for n, ((ensemble, height, width), views) in enumerate(by_size.items()):
        rows = torch.tensor([row for row, array in views for _ in range(len(array))])
        cuda = ensemble.device.type == "cuda"
        pixels = torch.empty((len(rows), height, width, 3), dtype=torch.uint8, pin_memory=cuda)
        torch.cat([array for _, array in views], out=pixels)
        scores = ensemble(pixels.permute(0, 3, 1, 2))
        if n == 0:
            total = scores.new_zeros((len(pictures), scores.shape[1]))
        total.index_add_(0, rows.to(scores.device), scores)
    return total
