"""Box encoding, anchors, matching, sampling and region proposals against their definitions."""

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from residual.tasks.detection.boxes import (
    RATIOS,
    base_anchors,
    decode,
    encode,
    filter_proposals,
    flip,
    grid_anchors,
    merge_proposals,
    top_anchors,
    vote,
)
from residual.tasks.detection.losses import (
    BACKGROUND,
    IGNORED,
    match,
    sample_matches,
)


def some(n: int, seed: int, width: float = 100) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=draw).double() * width
    return torch.cat([corner, corner + 1 + torch.rand(n, 2, generator=draw) * 40], dim=1)


def area(box: Tensor) -> float:
    return max(float(box[2] - box[0]), 0.0) * max(float(box[3] - box[1]), 0.0)


def iou(a: Tensor, b: Tensor) -> float:
    """Of two boxes, number by number."""
    shared = area(torch.cat([torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])]))
    return shared / (area(a) + area(b) - shared)


def test_a_box_that_is_encoded_and_decoded_is_itself():
    boxes, own = some(50, 0), some(50, 1)
    assert torch.allclose(decode(encode(boxes, own), own), boxes, atol=1e-9)


def test_shifts_are_those_of_r_cnn():
    shifts = encode(torch.tensor([[10.0, 20, 50, 100]]), torch.tensor([[0.0, 0, 20, 40]]))
    expected = [(30 - 10) / 20, (60 - 20) / 40, torch.tensor(2.0).log(), torch.tensor(2.0).log()]
    assert shifts[0].tolist() == pytest.approx([float(x) for x in expected])


def test_a_wild_guess_is_no_infinite_box():
    assert (
        decode(torch.tensor([[0.0, 0, 1e3, 1e3]]), torch.tensor([[0.0, 0, 16, 16]]))
        .isfinite()
        .all()
    )


def test_a_box_on_the_mirror_of_a_picture_lies_where_its_pixels_do():
    picture = torch.zeros(20, 30)
    picture[4:9, 3:12] = 1
    left, top, right, bottom = flip(torch.tensor([[3, 4, 12, 9]]), 30)[0].tolist()
    assert picture.flip(-1)[top:bottom, left:right].all() and picture.sum() == 9 * 5


def test_voting_is_a_mean_weighted_by_scores():
    boxes, others = some(6, 6, 30), some(40, 7, 30)
    scores = torch.rand(40, generator=torch.Generator().manual_seed(8)).double()
    for box, found in zip(boxes, vote(boxes, others, scores), strict=True):
        near = [j for j in range(40) if iou(box, others[j]) >= 0.5]
        if not near:
            assert found.tolist() == box.tolist()
            continue
        total = sum(float(scores[j]) for j in near)
        expected = sum(float(scores[j]) * others[j] for j in near) / total
        assert torch.allclose(found, expected, atol=1e-9)


def test_there_are_nine_anchors_of_three_areas_and_three_shapes_at_each_place():
    nine = base_anchors((128, 256, 512))
    sizes = nine[:, 2:] - nine[:, :2]
    found = {(round(float(w * h) ** 0.5), round(float(h / w), 3)) for w, h in sizes}
    assert found == {(s, r) for s in (128, 256, 512) for r in RATIOS}
    placed = grid_anchors(torch.zeros(1, 8, 2, 3), (128, 256, 512))
    assert placed.shape == (2 * 3 * 9, 4)
    centres = (placed[:, :2] + placed[:, 2:]) / 2
    assert centres[::9].round().tolist() == [[x, y] for y in (8, 24) for x in (8, 24, 40)]


def plainly(
    boxes: Tensor, objects: Tensor, least: float, background: tuple[float, float], best_match: bool
) -> list[int]:
    """What each box belongs to, box by box."""
    best = [max(iou(box, thing) for box in boxes) for thing in objects]
    found = []
    for box in boxes:
        shared = [iou(box, thing) for thing in objects]
        most, which = max(shared), shared.index(max(shared))
        own = best_match and any(s == b > 0 for s, b in zip(shared, best, strict=True))
        if most >= least or own:
            found.append(which)
        elif background[0] <= most < background[1]:
            found.append(BACKGROUND)
        else:
            found.append(IGNORED)
    return found


@pytest.mark.parametrize(
    "limits",
    [
        (0.7, (0.0, 0.3), True),
        (0.5, (0.1, 0.5), False),
        (0.5, (0.0, 0.5), False),
    ],
)
def test_matching_agrees_with_its_definition(limits):
    objects = some(5, 9, 60)
    boxes = torch.cat([some(200, 10, 60), objects + 3, objects])
    found = match(boxes, objects, *limits).tolist()
    assert found == plainly(boxes, objects, *limits)
    assert {BACKGROUND} < set(found)


def test_without_objects_all_is_background_or_nothing_is():
    none = torch.zeros(0, 4).double()
    assert set(match(some(9, 0), none, 0.5, (0.0, 0.5)).tolist()) == {BACKGROUND}
    assert set(match(some(9, 0), none, 0.5, (0.1, 0.5)).tolist()) == {IGNORED}


def test_a_sample_has_at_most_its_share_of_objects_and_is_filled_with_background():
    matches = torch.tensor([0, BACKGROUND, 1, IGNORED, 2] * 40)
    found = sample_matches(matches, 50, 12, 7, 0, 3)
    assert len(found) == 50 == len(set(found.tolist()))
    assert int((matches[found] >= 0).sum()) == 12 and int((matches[found] == IGNORED).sum()) == 0
    few = sample_matches(torch.tensor([0, BACKGROUND, BACKGROUND, IGNORED]), 50, 12, 7)
    assert sorted(few.tolist()) == [0, 1, 2]


def test_a_sample_is_a_function_of_its_key_and_any_background_may_be_drawn():
    matches = torch.full((30,), BACKGROUND)
    drawn = [tuple(sample_matches(matches, 5, 2, seed).tolist()) for seed in range(60)]
    assert drawn[3] == tuple(sample_matches(matches, 5, 2, 3).tolist())
    assert len(set(drawn)) > 50 and {i for each in drawn for i in each} == set(range(30))


def test_proposals_are_large_apart_inside_and_best_first():
    own = some(300, 11, 80).float()
    draw = torch.Generator().manual_seed(12)
    scores, shifts = torch.randn(300, 2, generator=draw), torch.randn(300, 4, generator=draw) / 5
    best = top_anchors(scores, shifts, own, (70, 90), 200)
    boxes, ahead = filter_proposals(*best, 40, 4, torch.tensor([2.0, 3, 2, 3]))
    sure = ahead.sigmoid()
    assert 10 < len(boxes) <= 40
    assert sure.tolist() == sorted(sure.tolist(), reverse=True)
    assert ((boxes[:, 2:] - boxes[:, :2]) >= torch.tensor([8, 12])).all()
    assert (boxes >= 0).all() and (boxes[:, 2] <= 90).all() and (boxes[:, 3] <= 70).all()
    assert box_iou(boxes, boxes).fill_diagonal_(0).max() <= 0.7
    least = scores.softmax(dim=1)[:, 1].sort(descending=True).values[199]
    assert sure.min() >= least


def test_voting_is_exact_where_precision_is_mixed():
    box = torch.tensor([[611.3, 407.7, 933.9, 701.2]])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(vote(box, box, torch.tensor([0.9])), box, atol=1e-3)


def test_where_no_anchor_is_inside_a_picture_none_is_matched():
    none, thing = torch.zeros(0, 4), torch.tensor([[0.0, 0, 9, 9]])
    assert match(none, thing, 0.7, (0.0, 0.3), best_match=True).shape == (0,)


def test_of_proposals_of_two_networks_that_overlap_the_better_one_stays():
    one = some(10, 13).float()
    other, scores = one + 0.5, torch.linspace(1, 0.1, 10)
    both, sure = torch.cat([one, other]), torch.cat([scores, scores - 0.01])
    found = merge_proposals([(one, scores), (other, scores - 0.01)], 100)
    assert len(found) < 20 and torch.equal(found, both[nms(both, sure, 0.7)])


def test_several_networks_propose_the_union_of_their_boxes():
    one, other = some(10, 13).float(), some(10, 14).float() + 500
    scores = torch.linspace(1, 0.1, 10)
    alone, _ = one[nms(one, scores, 0.7)], None
    union = merge_proposals([(one, scores), (other, scores)], 100)
    assert {tuple(box) for box in alone.tolist()} < {tuple(box) for box in union.tolist()}
    assert merge_proposals([(one, scores)], 100) is one
