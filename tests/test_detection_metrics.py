"""Average precision against its plain definition, against pycocotools, and by hand."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import isnan, nan

import numpy as np
import pytest
import torch
from made_scenes import CLASSES, example, found, random_scenes, scenes
from torch import Tensor

from residual.tasks.detection.boxes import Detections
from residual.tasks.detection.datasets import Example
from residual.tasks.detection.metrics import (
    COCO_IOUS,
    MEASURES,
    coco_ap,
    match_detections,
    measure,
    voc_ap,
)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high)


Line = tuple[float, int, list[float]]  # a detection: score, picture, box


def lines(every: Sequence[Detections], label: int) -> list[Line]:
    """Of one class, the surest first; equal ones by picture, then as they were found."""
    rows = [
        (float(one.scores[i]), picture, one.boxes[i].tolist())
        for picture, one in enumerate(every)
        for i in range(len(one.scores))
        if int(one.labels[i]) == label
    ]
    return sorted(rows, key=lambda row: -row[0])


def objects(examples: Sequence[Example], label: int) -> list[list[tuple[list[float], bool]]]:
    return [
        [
            (each.boxes[j].tolist(), bool(each.difficult[j]))
            for j in range(len(each.labels))
            if int(each.labels[j]) == label
        ]
        for each in examples
    ]


def devkit(every, examples, label: int, iou: float, points: str, difficult: bool) -> float:
    """VOCevaldet of the devkit, line by line."""
    there = [[(box, hard and not difficult) for box, hard in each]
             for each in objects(examples, label)]  # fmt: skip
    count = sum(not hard for each in there for _, hard in each)
    if not count:
        return nan
    done: set[tuple[int, int]] = set()
    tp, fp, curve = 0, 0, []
    for _, picture, box in lines(every, label):
        best, which = -1.0, -1
        for j, (truth, _) in enumerate(there[picture]):
            if overlap(box, truth) > best:
                best, which = overlap(box, truth), j
        if best < iou:
            fp += 1
        elif there[picture][which][1]:
            continue
        elif (picture, which) in done:
            fp += 1
        else:
            done.add((picture, which))
            tp += 1
        curve.append((tp, tp / (tp + fp)))
    if points == "11":
        tops = [[p for tp, p in curve if 10 * tp >= k * count] for k in range(11)]
        return sum(max(each, default=0.0) for each in tops) / 11
    area, before = 0.0, 0
    for i, (tp, _) in enumerate(curve):
        area += (tp - before) / count * max(p for _, p in curve[i:])
        before = tp
    return area


def coco(every, examples, label: int, iou: float) -> float:
    """COCO's measure: each detection takes the best object that is free, and is set aside where
    that is a crowd, of which it need only be a part; precision at 101 recalls."""
    there = objects(examples, label)
    count = sum(not crowd for each in there for _, crowd in each)
    if not count:
        return nan
    taken: set[tuple[int, int]] = set()
    tp, fp, curve = 0, 0, []
    for _, picture, box in lines(every, label):
        free = [(overlap(box, truth), j) for j, (truth, crowd) in enumerate(there[picture])
                if not crowd and (picture, j) not in taken]  # fmt: skip
        best, which = max(free, default=(0.0, -1))
        if best >= iou:
            taken.add((picture, which))
            tp += 1
        elif any(inside(box, truth) >= iou for truth, crowd in there[picture] if crowd):
            continue
        else:
            fp += 1
        curve.append((tp / count, tp / (tp + fp)))
    tops = [[p for recall, p in curve if recall >= point] for point in np.linspace(0, 1, 101)]
    return sum(max(each, default=0.0) for each in tops) / 101


def inside(box: Sequence[float], crowd: Sequence[float]) -> float:
    """Which part of a box is inside a crowd."""
    wide = min(box[2], crowd[2]) - max(box[0], crowd[0])
    high = min(box[3], crowd[3]) - max(box[1], crowd[1])
    return max(wide, 0) * max(high, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def agree(fast: Tensor, slow: Sequence[float], within: float = 1e-9) -> None:
    assert fast.tolist() == pytest.approx(slow, abs=within, nan_ok=True)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_the_devkit_counts(seed):
    every, made = random_scenes(seed)
    for iou, points, difficult in product((0.3, 0.5, 0.75), ("area", "11"), (False, True)):
        ours = voc_ap(match_detections(every, made.examples, len(CLASSES)), iou, points, difficult)
        assert ours.dtype == torch.float64
        slow = [devkit(every, made.examples, n, iou, points, difficult) for n in range(3)]
        assert 0 < slow[0] < 1 and isnan(slow[2])
        agree(ours, slow)


def test_made_scenes_hold_what_is_hard_to_count():
    every, made = random_scenes(0)
    assert any(each.difficult.any() for each in made.examples)
    assert any(not len(each.labels) for each in made.examples)
    scores = torch.cat([one.scores for one in every])
    assert len(scores.unique()) < len(scores) / 10
    assert any(int(one.labels.eq(2).sum()) for one in every)


@pytest.mark.parametrize("sort", ["voc", "coco"])
@pytest.mark.parametrize("seed", range(3))
def test_cocos_numbers_are_pycocotools_and_agree_with_their_definition(seed, sort):
    pytest.importorskip("pycocotools")
    every, made = random_scenes(seed, sort)
    if sort == "voc":  # nothing is difficult: what is said of crowds is none of VOC's
        easy = [replace(e, difficult=torch.zeros_like(e.difficult)) for e in made.examples]
        made = replace(made, examples=tuple(easy))
    numbers = coco_ap(every, made)

    def mean(iou: float) -> float:
        return float(np.nanmean([coco(every, made.examples, n, iou) for n in range(3)]))

    assert numbers["AP50"] == pytest.approx(mean(0.5), abs=1e-6)
    assert numbers["AP75"] == pytest.approx(mean(0.75), abs=1e-6)
    whole = sum(map(mean, COCO_IOUS)) / 10
    assert numbers["AP[.5:.95]"] == pytest.approx(whole, abs=1e-6)
    assert isnan(numbers["large"]) and 0 < numbers["small"] <= 1


def test_a_difficult_object_of_voc_is_no_crowd_for_coco():
    pytest.importorskip("pycocotools")
    part = found((0, 0, 10, 10, 0.9), (50, 50, 60, 60, 0.8))
    hard = example((0, 0, 40, 10, 1), (50, 50, 60, 60))
    assert coco_ap([part], scenes([hard], "coco"))["AP50"] == pytest.approx(1)  # part of a crowd
    assert coco_ap([part], scenes([hard], "voc"))["AP50"] == pytest.approx(0.5)
    whole = found((0, 0, 40, 10, 0.9), (50, 50, 60, 60, 0.8))
    assert coco_ap([whole], scenes([hard], "voc"))["AP50"] == pytest.approx(1)


def test_coco_counts_nothing_where_there_is_nothing(capsys):
    pytest.importorskip("pycocotools")
    assert coco_ap([found()], scenes([example((0, 0, 9, 9))]))["AP50"] == 0
    assert isnan(coco_ap([found((0, 0, 9, 9, 0.5))], scenes([example()]))["AP50"])
    assert capsys.readouterr().out == ""


def test_without_pycocotools_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ValueError, match=r"pip install 'residual-learning\[detection\]'$"):
        coco_ap([], scenes([]))


TWO = example((0, 0, 10, 10), (20, 20, 30, 30))
BOTH = ((0, 0, 10, 10, 0.9), (20, 20, 30, 30, 0.8))
FAR = (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("made", "answer", "area", "eleven"),
    [
        (TWO, found(*BOTH), 1, 1),
        (TWO, found((*FAR, 0.9)), 0, 0),
        (TWO, found(), 0, 0),
        (TWO, found(BOTH[0]), 1 / 2, 6 / 11),  # the recalls 0 to .5
        (TWO, found(BOTH[0], (0, 0, 10, 9, 0.85), BOTH[1]), 1 / 2 + 1 / 3, (6 + 5 * 2 / 3) / 11),
        (TWO, found((*FAR, 0.95), *BOTH), 2 / 3, 2 / 3),  # the better precision comes later
        (example((0, 0, 10, 10), (*FAR, 1)), found((*FAR, 0.95), BOTH[0]), 1, 1),
        (example((0, 0, 10, 10), (*FAR, 1)), found((*FAR, 0.95), (*FAR, 0.9), BOTH[0]), 1, 1),
        (example(), found(*BOTH), nan, nan),
        (example((*FAR, 1)), found((*FAR, 0.9)), nan, nan),
    ],
)
def test_by_hand(made, answer, area, eleven):
    for points, expected in (("area", area), ("11", eleven)):
        agree(voc_ap(match_detections([answer], [made], 1), points=points), [expected], 1e-12)


def test_a_difficult_object_can_be_counted_like_others():
    made = example((0, 0, 10, 10), (*FAR, 1))
    agree(voc_ap(match_detections([found(BOTH[0])], [made], 1), difficult=True), [0.5])
    twice = found((*FAR, 0.95), (*FAR, 0.9), BOTH[0])
    agree(voc_ap(match_detections([twice], [made], 1), difficult=True), [0.5 + 0.5 * 2 / 3])
    agree(
        voc_ap(match_detections([found((*FAR, 0.9))], [example((*FAR, 1))], 1), difficult=True), [1]
    )


def test_an_overlap_of_exactly_the_limit_is_enough():
    half = found((0, 0, 5, 10, 0.9))
    agree(voc_ap(match_detections([half], [example((0, 0, 10, 10))], 1)), [1])
    agree(voc_ap(match_detections([half], [example((0, 0, 10, 10))], 1), iou=0.51), [0])


def test_three_of_ten_objects_reach_the_recall_of_three_tenths():
    ten = example(*((20 * n, 0, 20 * n + 10, 10) for n in range(10)))
    three = found(*((20 * n, 0, 20 * n + 10, 10, 0.9) for n in range(3)))
    agree(voc_ap(match_detections([three], [ten], 1), points="11"), [4 / 11])


def test_the_best_object_is_taken_even_where_a_free_one_overlaps_enough():
    made = example((0, 0, 10, 10), (0, 0, 10, 8))
    twice = found((0, 0, 10, 10, 0.9), (0, 0, 10, 10, 0.8))
    agree(voc_ap(match_detections([twice], [made], 1)), [0.5])


def test_equal_scores_stay_in_the_order_of_pictures():
    right, wrong = found((0, 0, 10, 10, 0.5)), found((*FAR, 0.5))
    there, empty = example((0, 0, 10, 10)), example()
    agree(voc_ap(match_detections([right, wrong], [there, empty], 1)), [1])
    agree(voc_ap(match_detections([wrong, right], [empty, there], 1)), [0.5])


def test_what_is_kept_is_in_percent_by_name_and_twice():
    every, made = random_scenes(0)
    kept = measure(every, made)
    assert kept["pictures"] == 12
    assert kept["objects"] == sum(int((~each.difficult).sum()) for each in made.examples)
    assert kept["difficult"] == sum(int(each.difficult.sum()) for each in made.examples)
    assert kept["detections"] == sum(len(one.scores) for one in every)
    matches = match_detections(every, made.examples, 3)
    for difficult, some in ((False, kept), (True, kept["difficult counted"])):
        for name, (limits, points) in MEASURES.items():
            each = [voc_ap(matches, iou, points, difficult) for iou in limits]
            mean = torch.stack(each).mean(dim=0) * 100
            assert some[name]["mean"] == pytest.approx(float(mean.nanmean()))
            assert list(some[name]["classes"]) == list(CLASSES)
            assert some[name]["classes"]["dog"] == pytest.approx(float(mean[1]))
            assert some[name]["classes"]["bird"] is None
    assert "coco" not in kept
    assert measure([], scenes([]))["AP50-area"]["mean"] is None


def test_a_split_of_cocos_sort_has_cocos_numbers_too():
    pytest.importorskip("pycocotools")
    every, made = random_scenes(1, "coco")
    kept, numbers = measure(every, made)["coco"], coco_ap(every, made)
    assert kept["large"] is None
    assert kept["AP50"] == pytest.approx(100 * numbers["AP50"]) and set(kept) == set(numbers)
