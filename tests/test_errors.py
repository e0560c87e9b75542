"""What evaluation/errors.py claims: counts add, and a network is judged alike in any batches."""

import pytest
import torch
from torch import Tensor, nn

from residual.data.batches import evaluation_batches, per_pixel_mean
from residual.data.digits import digits
from residual.evaluation.errors import Count, as_it_is, best, confusion, count
from residual.nets.networks import build


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build("resnet8")


def answers(nets: list[nn.Module], batch: int = 500, k: int = 5) -> Tensor:
    images = digits().test
    return best(nets, evaluation_batches(images, per_pixel_mean(images), batch), as_it_is, k)


def mirrored(images: Tensor) -> list[Tensor]:
    return [images, images.flip(-1)]


def test_counts_add_and_rates_do_not():
    whole = Count(1, 0, 10) + Count(30, 20, 90)
    assert whole == Count(31, 20, 100)
    assert whole.error_top1 == 31.0
    assert whole.error_top5 == 20.0
    assert Count() + whole == whole


def test_an_answer_is_wrong_when_the_label_is_not_the_best_or_not_among_five():
    labels = torch.tensor([3, 3, 3, 3])
    given = torch.tensor([[3, 0, 1, 2, 4], [0, 3, 1, 2, 4], [0, 1, 2, 4, 3], [0, 1, 2, 4, 5]])
    assert count(given, labels) == Count(wrong_top1=3, wrong_top5=1, seen=4)


def test_only_the_first_five_answers_count():
    given = torch.tensor([[0, 1, 2, 4, 5, 3]])
    assert count(given, torch.tensor([3])) == Count(1, 1, 1)


def test_a_damaged_picture_counts_as_wrong():
    assert count(torch.tensor([[3]]), torch.tensor([3]), damaged=2) == Count(2, 2, 3)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_a_network_is_judged_alike_however_the_images_are_batched(batch):
    images, labels, net = digits().test, digits().test.labels, network(0)
    scores = net.eval()(per_pixel_mean(images)(images.pixels)).detach()
    expected = Count(
        wrong_top1=sum(int(s.argmax()) != y for s, y in zip(scores, labels.tolist(), strict=True)),
        wrong_top5=sum(
            y not in s.argsort(descending=True)[:5].tolist()
            for s, y in zip(scores, labels.tolist(), strict=True)
        ),
        seen=360,
    )
    assert count(answers([net], batch), labels) == expected


def test_each_image_is_seen_once_and_in_order():
    images = digits().test
    labels = [y for _, y in evaluation_batches(images, per_pixel_mean(images), 7)]
    assert torch.equal(torch.cat(labels), images.labels)


def test_an_ensemble_of_one_is_the_one():
    assert torch.equal(answers([network(0)]), answers([network(0), network(0)]))
    assert not torch.equal(answers([network(0)]), answers([network(0), network(1)]))


def test_an_ensemble_answers_by_the_mean_of_its_probabilities():
    images = digits().test
    x = per_pixel_mean(images)(images.pixels)
    nets = [network(seed) for seed in range(3)]
    mean = sum(net.eval()(x).softmax(dim=1) for net in nets) / 3
    assert (answers(nets)[:, 0] == mean.argmax(dim=1)).float().mean() > 0.99


def test_an_image_s_probabilities_are_the_mean_over_its_views():
    x, net = torch.randn(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), network(0)
    found = best([net], [(x, torch.zeros(20))], mirrored)
    net.eval()
    mean = (net(x).softmax(dim=1) + net(x.flip(-1)).softmax(dim=1)) / 2
    assert torch.equal(found[:, 0], mean.argmax(dim=1))
    assert torch.equal(found, best([net], [(x.flip(-1), torch.zeros(20))], mirrored))


def test_a_network_gets_its_mode_back():
    nets = [network(0).train(), network(1).eval()]
    before = {key: value.clone() for key, value in nets[0].state_dict().items()}
    answers(nets)
    assert [net.training for net in nets] == [True, False]
    assert all(torch.equal(value, before[key]) for key, value in nets[0].state_dict().items())


def test_there_are_no_more_answers_than_classes():
    x = torch.randn(4, 3, 8, 8)
    assert best([build("resnet8", 2)], [(x, torch.zeros(4))], as_it_is).shape == (4, 2)


def test_the_confusion_matrix_has_classes_in_rows_and_answers_in_columns():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    given = torch.tensor([0, 1, 1, 2, 0, 0])
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, answer in zip(labels, given, strict=True):
        expected[label, answer] += 1
    assert torch.equal(confusion(given, labels, 4), expected)


@pytest.mark.parametrize(("labels", "given"), [([0, 3], [0, 0]), ([0, 0], [0, 3]), ([-1], [0])])
def test_a_label_or_an_answer_that_is_no_class_is_refused(labels, given):
    with pytest.raises(ValueError, match="is not one of the 3 classes, 0 to 2"):
        confusion(torch.tensor(given), torch.tensor(labels), 3)
