"""A protocol equals the naive loop over its views and pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from residual.data.datasets import FolderSource, ImageFiles
from residual.data.decode import scaled_size
from residual.data.normalization import Preprocessing
from residual.device import ComputeConfig
from residual.distributed import World
from residual.models.registry import build
from residual.tasks.classification.inference import (
    NO_ANSWER,
    InferenceOptions,
    Member,
    answers,
    class_scores,
    evaluation_mode,
    sum_views,
)
from residual.tasks.classification.metrics import count
from residual.tasks.classification.protocols import PROTOCOLS, Protocol, get_protocol

CROP, SHORTER, CLASSES = 24, 29, 7
SIDES = (24, 29, 38)
SIZES = ((41, 30), (30, 47), (33, 33), (29, 29), (24, 90), (61, 25), (30, 41), (41, 30), (200, 151))
CASES = [
    get_protocol("1crop"),
    get_protocol("1crop", sides=[33], mirror=True),
    get_protocol("10crop", sides=[SHORTER]),
    get_protocol("10crop", "scores", mirror=False, sides=[31]),
    get_protocol("multiscale", sides=SIDES),
    get_protocol("multiscale", "scores", sides=SIDES),
    get_protocol("multiscale", mirror=False, sides=SIDES),
    get_protocol("144crop", sides=[24, 33]),
    get_protocol("150crop", sides=[24, 38]),
    get_protocol("dense", sides=SIDES[1:]),
    get_protocol("multiview", mirror=False, sides=SIDES[1:]),
]


def words(protocol: Protocol) -> str:
    mirror = "mirrored" if protocol.mirror else "unmirrored"
    return f"{protocol.name}-{'-'.join(map(str, protocol.sides))}-{protocol.average}-{mirror}"


WORK = InferenceOptions(ComputeConfig(), micro_batch=3)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> ImageFiles:
    """Of odd sizes, upright and lying; no two alike."""
    folder, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for i, (width, height) in enumerate(SIZES):
        coarse = draw.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((width, height)).save(folder / f"{i}.png")
    paths = [f"{i}.png" for i in range(len(SIZES))]
    return ImageFiles(FolderSource(folder, paths), torch.arange(9), torch.arange(9) % CLASSES)


def judged(
    seed: int, *, pixel: bool = False, shorter: int = SHORTER, double: bool = True
) -> Member:
    """A network that tells pictures apart, with a preprocessing of its own."""
    torch.manual_seed(seed)
    net = build("resnet8", CLASSES)
    nn.init.normal_(net.fc.weight, std=1.0)
    mean = torch.rand(3, CROP, CROP) if pixel else torch.rand(3, 1, 1)
    before = Preprocessing(mean, torch.rand(3, 1, 1) + 0.5, (CROP, CROP), shorter)
    some = F.interpolate(torch.rand(32, 3, 5, 5), (CROP, CROP), mode="bilinear")
    with torch.no_grad():  # what all pictures have in common decides nothing
        net.fc.bias -= net.eval()(before(some.mul(255).byte())).mean(dim=0)
    return Member(net.double() if double else net, before)


def cut(image: Image.Image, protocol: Protocol, shorter: int) -> list[Tensor]:
    """The definition: every view of a picture, one after another, (3, h, w)."""
    found = []
    for side in protocol.sides or (shorter,):
        width, height = scaled_size(image.size, side)
        whole = image.resize((width, height), Image.Resampling.BILINEAR)
        for view in looked_at(whole, protocol.name):
            pixels = torch.from_numpy(np.array(view)).permute(2, 0, 1)
            found += [pixels, pixels.flip(-1)] if protocol.mirror else [pixels]
    return found


def looked_at(whole: Image.Image, name: str) -> list[Image.Image]:
    """The definition: what is seen of a picture in one size, unmirrored."""
    (width, height), side = whole.size, min(whole.size)
    (x, right), (y, bottom) = ((round((n - CROP) / 2), n - CROP) for n in whole.size)
    places = [(x, y)]
    if name in ("multiscale", "dense", "multiview"):
        return [whole]
    if name == "144crop":
        middle = (round((width - side) / 2), round((height - side) / 2))
        found = []
        for x, y in [(0, 0), middle, (width - side, height - side)]:
            square = whole.crop((x, y, x + side, y + side))
            small = square.resize((CROP, CROP), Image.Resampling.BILINEAR)
            found += [*looked_at(square, "10crop"), small]
        return found
    if name == "10crop":
        places += [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    if name == "150crop":
        places = [(round(i * right / 4), round(j * bottom / 4)) for i in range(5) for j in range(5)]
    return [whole.crop((x, y, x + CROP, y + CROP)) for x, y in places]


@torch.no_grad()
def naive(net: Member, image: Image.Image, protocol: Protocol) -> Tensor:
    """The definition: (C,), the mean over the views, each on its own."""
    said, mean = [], net.preprocessing.mean
    average = mean.double().mean(dim=(1, 2), keepdim=True)
    for view in cut(image, protocol, net.preprocessing.shorter):
        own = average if protocol.fully_convolutional else mean.double()
        x = (view.double() / 255 - own) / net.preprocessing.std.double()
        scores = net.net.eval()(x[None].to(net.net.fc.weight.dtype))[0]
        said.append(scores if protocol.average == "scores" else scores.softmax(dim=0))
    return torch.stack(said).mean(dim=0)


def means(
    nets: list[Member], images: ImageFiles, protocol: Protocol, work: InferenceOptions = WORK
) -> Tensor:
    """What `answers` decides by: (N, C), by the means over views and networks."""
    found = torch.full((len(images), CLASSES), torch.nan, dtype=torch.float64)
    with evaluation_mode([each.net for each in nets]):
        for _, read, scores in class_scores(nets, images, protocol, work):
            found[torch.tensor(read)] = scores
    return found / (protocol.views * len(nets))


@pytest.mark.parametrize("pixel", [False, True])
@pytest.mark.parametrize("protocol", CASES, ids=words)
def test_a_protocol_equals_the_loop_over_its_views_and_pictures(photographs, protocol, pixel):
    net = judged(0, pixel=pixel)
    expected = torch.stack([naive(net, photographs.image(i), protocol) for i in range(9)])
    found = means([net], photographs, protocol)
    assert (found - expected).abs().max() < 1e-9
    assert expected.std(dim=0).max() > 0.01, "to this network all pictures look alike"


@pytest.mark.parametrize("protocol", CASES, ids=words)
def test_in_float32_the_counts_are_those_of_the_loop(photographs, protocol):
    net = judged(0, double=False)
    scores = torch.stack([naive(net, photographs.image(i), protocol) for i in range(9)])
    expected = count(scores.topk(5).indices, photographs.labels)
    found = answers([net], photographs, protocol, WORK)
    assert count(found, photographs.labels) == expected
    assert expected.wrong_top1 > 0
    assert expected.images == 9


def test_a_protocol_has_as_many_views_as_the_paper_says(photographs):
    assert {name: each.views for name, each in PROTOCOLS.items()} == {
        "1crop": 1, "10crop": 10, "multiscale": 10,
        "144crop": 144, "150crop": 150, "dense": 6, "multiview": 6,
    }  # fmt: skip
    for protocol in CASES:
        assert len(cut(photographs.image(0), protocol, SHORTER)) == protocol.views


def test_the_views_average_probabilities_or_scores_and_these_differ(photographs):
    protocol = get_protocol("multiscale", sides=SIDES)
    probabilities = means([judged(0)], photographs, protocol)
    scores = means([judged(0)], photographs, replace(protocol, average="scores"))
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(9, dtype=torch.float64))
    assert (scores.softmax(dim=1) - probabilities).abs().max() > 1e-6


@pytest.mark.parametrize("micro_batch", [1, 2, 64])
@pytest.mark.parametrize("protocol", CASES[2:5], ids=words)
def test_the_micro_batch_changes_no_answer(photographs, protocol, micro_batch):
    net = judged(1)
    found = means([net], photographs, protocol, replace(WORK, micro_batch=micro_batch))
    assert (found - means([net], photographs, protocol)).abs().max() < 1e-12


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_a_micro_batch_bounds_the_pixels_and_memory_does_not_grow_with_the_set(
    photographs, micro_batch, monkeypatch
):
    passed, waiting = [], []
    net = judged(0)
    net.net.register_forward_pre_hook(lambda _, inputs: passed.append(inputs[0].shape))
    monkeypatch.setattr("residual.tasks.classification.inference.WAITING", 2)
    monkeypatch.setattr(
        "residual.tasks.classification.inference.sum_views",
        lambda ensembles, pictures: (
            waiting.append(sum(array.numel() // 3 for arrays in pictures for array in arrays)),
            sum_views(ensembles, pictures),
        )[1],
    )
    many = photographs.subset(torch.arange(9).repeat(5))
    limit = micro_batch * CROP * CROP
    protocol = get_protocol("multiscale", sides=SIDES)
    found = means([net], many, protocol, replace(WORK, micro_batch=micro_batch))
    assert all(shape[0] == 1 or shape[0] * shape[2] * shape[3] <= limit for shape in passed)
    task = 4 * 45 * 200 * len(SIDES)
    assert max(waiting) < 2 * limit + task
    assert (found[:9] - found[36:]).abs().max() < 1e-12


def test_views_of_one_size_pass_together_whichever_pictures_they_are_of(photographs):
    passed = []
    net = judged(0)
    net.net.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    means([net], photographs, get_protocol("10crop", sides=[29]), replace(WORK, micro_batch=45))
    assert passed == [45, 45]  # nine pictures' five crops, and their mirrors


def test_an_ensemble_of_one_or_of_one_twice_is_the_one(photographs):
    protocol, one = CASES[2], judged(0, double=False)
    alone = answers([one], photographs, protocol, WORK)
    assert torch.equal(alone, answers([one, one], photographs, protocol, WORK))
    assert not torch.equal(
        alone, answers([one, judged(5, double=False)], photographs, protocol, WORK)
    )


@pytest.mark.parametrize("protocol", [CASES[0], CASES[3], CASES[4]], ids=words)
def test_each_network_of_an_ensemble_has_its_own_preprocessing_and_order_of_classes(
    photographs, protocol
):
    first, second = judged(0), judged(1, pixel=True, shorter=33)
    turned = replace(second, order=torch.arange(CLASSES).flip(0))
    third = judged(2, shorter=29)
    expected = torch.stack(
        [
            naive(first, image, protocol) / 3
            + naive(second, image, protocol).flip(0) / 3
            + naive(third, image, protocol) / 3
            for image in map(photographs.image, range(9))
        ]
    )
    assert (means([first, turned, third], photographs, protocol) - expected).abs().max() < 1e-9


def test_a_picture_that_cannot_be_read_has_no_answer_and_takes_none_from_the_others(
    photographs, tmp_path
):
    for i in range(9):
        content = (photographs.source.folder / f"{i}.png").read_bytes()
        (tmp_path / f"{i}.png").write_bytes(content[:60] if i in (0, 4) else content)
    torn = replace(photographs, source=FolderSource(tmp_path, [f"{i}.png" for i in range(9)]))
    for protocol in CASES[::2]:
        found = answers([judged(0)], torn, protocol, WORK)
        whole = answers([judged(0)], photographs, protocol, WORK)
        assert (found[[0, 4]] == NO_ANSWER).all()
        others = [1, 2, 3, 5, 6, 7, 8]
        assert torch.equal(found[others], whole[others])
    lost = answers([judged(0)], torn.subset(torch.tensor([0, 4])), CASES[2], WORK)
    assert (lost == NO_ANSWER).all()


def test_workers_change_nothing(photographs):
    there = answers([judged(0)], photographs, CASES[4], replace(WORK, workers=2))
    assert torch.equal(there, answers([judged(0)], photographs, CASES[4], WORK))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("12crop",), "no protocol '12crop'; there are 1crop, 10crop, multiscale"),
        (("1crop", "logits"), "'logits' cannot be averaged; there are probabilities and scores"),
        (("multiscale", "scores", None, [224, 224]), "are different numbers of pixels"),
        (("multiscale", "scores", None, []), "are different numbers of pixels"),
        (("multiscale", "scores", None, [0]), "are different numbers of pixels"),
    ],
)
def test_what_is_no_protocol_is_refused(words, why):
    with pytest.raises(ValueError, match=why):
        get_protocol(*words)


def test_an_image_that_is_judged_twice_is_noticed(photographs):
    class Twice(World):
        def shard(self, n: int) -> range:
            return range(n)

        def all_reduce(self, tensor: Tensor) -> Tensor:
            return tensor * 2

        def raise_any(self, error: Exception | None) -> None:
            assert error is None

    with pytest.raises(RuntimeError, match="seen twice or not at all"):
        answers([judged(0)], photographs, CASES[0], replace(WORK, world=Twice(0, 2)))


def test_progress_counts_the_pictures(photographs):
    calls: list[tuple[int, int]] = []
    work = replace(WORK, micro_batch=1, progress=lambda done, total: calls.append((done, total)))
    answers([judged(0)], photographs, CASES[4], work)
    assert calls[-1] == (9, 9)
    assert len(calls) > 1
    assert calls == sorted(calls)


def test_a_network_gets_its_mode_back_even_after_an_error(photographs):
    net = judged(0)
    net.net.train()
    answers([net], photographs, CASES[0], WORK)
    assert net.net.training
    net.net.fc = nn.Linear(3, 3).double()  # does not fit
    with pytest.raises(RuntimeError):
        answers([net], photographs, CASES[0], WORK)
    assert net.net.training
