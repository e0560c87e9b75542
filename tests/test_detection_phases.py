"""Joint training has one phase, alternating training has four."""

from dataclasses import replace

import pytest
import torch
from made_boxes import draw_voc
from test_faster_rcnn import SMALL, made, sample

from residual.device import ComputeConfig
from residual.models.registry import build
from residual.tasks.classification.load import load as loaded
from residual.tasks.detection import loader, phases, train
from residual.tasks.detection import loop as learning
from residual.tasks.detection.recipe import VOC07, VOC07_ALTERNATING
from residual.training import checkpoint
from residual.training.checkpoint import with_preprocessing
from residual.training.events import RunOptions, Stopped

FOUR = replace(SMALL, schedule="alternating", steps=12)


def test_joint_training_is_one_stage():
    (only,) = phases.phases(VOC07)
    assert (only.first, only.end, len(only.losses)) == (0, 70_000, 4)
    assert not (only.fixed_proposals or only.frozen_backbone)


def test_the_four_stages_are_those_of_the_published_code():
    found = phases.phases(VOC07_ALTERNATING)
    assert [each.end - each.first for each in found] == [80_000, 40_000, 80_000, 40_000]
    assert [each.frozen_backbone for each in found] == [False, False, True, True]
    assert [each.fixed_proposals for each in found] == [False, True, False, True]
    rates = {
        step: phases.learning_rate(VOC07_ALTERNATING, step) for step in (0, 59_999, 60_000, 80_000)
    }
    assert rates == pytest.approx({0: 1e-3, 59_999: 1e-3, 60_000: 1e-4, 80_000: 1e-3})


def test_each_stage_teaches_its_own_layers():
    trained = []
    for stage in phases.phases(FOUR):
        net = made(FOUR)
        learner = learning.start(net, FOUR)
        phases.freeze(stage, net)
        before = {name: each.clone() for name, each in net.state_dict().items()}
        one = sample(regions=torch.tensor([[4.0, 6, 30, 40], [0, 0, 90, 60]]))
        next(learning.train(learner, iter([[one]]), FOUR, phase=stage))
        after = net.state_dict()
        changed = {
            name.split(".")[0] for name in before if not torch.equal(before[name], after[name])
        }
        trained.append(changed)
    head = {"head", "score", "shift"}
    assert trained == [{"shared", "proposing"}, {"shared", *head}, {"proposing"}, head]


def test_the_second_stage_begins_where_the_first_did_and_the_third_proposes_anew():
    net, first = made(FOUR), made(FOUR).state_dict()
    learner = learning.start(net, FOUR)
    for parameter in net.parameters():
        torch.nn.init.ones_(parameter)
    phases.enter(phases.phases(FOUR)[1], learner, None)
    now = net.state_dict()
    assert all(torch.equal(now[k], first[k]) for k in now if k.startswith(("shared", "head")))
    assert (now["proposing.conv.weight"] == 1).all()
    phases.enter(phases.phases(FOUR)[2], learner, None)
    assert torch.equal(net.state_dict()["proposing.conv.weight"], first["proposing.conv.weight"])
    begun = {f"net.{name}": torch.zeros_like(each) for name, each in first.items()}
    phases.enter(phases.phases(FOUR)[1], learner, begun)
    assert not net.state_dict()["shared.conv1.0.0.weight"].any()


@pytest.mark.parametrize(("weights", "stops"), [(False, (5,)), (True, (4, 10))])
def test_an_alternating_training_that_stopped_ends_as_one_that_did_not(tmp_path, weights, stops):
    """In the middle of a stage, and where one ends and proposals are made anew."""
    folder = draw_voc(tmp_path / "made", n=3)
    recipe = replace(FOUR, batch=1, regions=8, anchors=16, proposals=30, bins=3)
    begin = None
    if weights:
        recipe = replace(recipe, norm="frozen", fixed=2)
        file = tmp_path / "weights.safetensors"
        torch.manual_seed(3)
        state = build("resnet18", 5).state_dict()
        before = loader.imagenet_preprocessing(224)
        header = {"step": 0, "network": "resnet18", "classes": list("abcde"), "recipe": None}
        tensors = {f"net.{name}": each for name, each in state.items()}
        checkpoint.save(file, *with_preprocessing(tensors, header, before))
        begin = loaded(file)
        recipe = train.from_weights(recipe, begin)
    data, how = train.load_data(recipe, {"where": str(folder)}), ComputeConfig(threads=1)
    ends = []
    for stop in (0, *stops):
        run = tmp_path / f"{stop}"
        train.begin(run, recipe, data, {"where": str(folder), "root": ""}, how, begin)
        taken: list[int] = []
        options = RunOptions(60, stop=lambda taken=taken, stop=stop: len(taken) == stop - 1)
        try:
            for event in train.advance(run, data, options):
                taken.append(event.step)
        except Stopped:
            *_, event = train.advance(run, data, RunOptions())
        assert bool(stop) == (len(taken) < 12)
        ends.append(event.result["weights_sha256"])
    assert len(set(ends)) == 1
