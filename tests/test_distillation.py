"""What FitNet-19 learns from a Maxout network: a hint, then its answers (Romero et al. 2015)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import EXACT, Answer, draw_pictures
from torch import Tensor, nn

from residual.data.normalization import Preprocessing
from residual.data.sources import load as pictures_of
from residual.device import ComputeConfig
from residual.models.baselines.layers import initialize
from residual.models.registry import build
from residual.tasks.classification import distillation, loop
from residual.tasks.classification.baseline_recipes import RECIPES
from residual.tasks.classification.load import load, read_recipe
from residual.tasks.classification.losses import total_loss
from residual.tasks.classification.recipe import guidance
from residual.tasks.classification.train import advance, begin
from residual.training import checkpoint
from residual.training.events import RunOptions
from residual.training.loop import StepOptions

SIZES = {"batch": 4, "norm_group": 4, "steps": 3}
HINT = replace(RECIPES["fitnet-hint"], **SIZES)
DISTILLED = replace(RECIPES["fitnet-distilled"], **SIZES)


def test_the_loss_of_a_hint_is_half_the_squared_difference_at_a_position():
    guided, shown = torch.randn(3, 5, 2, 4).double(), torch.randn(3, 5, 2, 4).double()
    scores, labels = torch.randn(3, 7).double(), torch.tensor([1, 0, 6])
    plain = 0.0
    for image in range(3):
        for y in range(2):
            for x in range(4):
                difference = guided[image, :, y, x] - shown[image, :, y, x]
                plain += 0.5 * float(difference @ difference) / 8
    found = total_loss((scores, guided), labels, HINT, 0, teacher=(scores, shown))
    assert float(found) == pytest.approx(plain, rel=1e-12)


@pytest.mark.parametrize(("step", "counts"), [(0, 4.0), (1, 3.0), (2, 2.0)])
def test_the_loss_of_a_distillation_is_that_of_labels_and_that_of_softened_answers(step, counts):
    scores, taught = torch.randn(2, 3).double(), torch.randn(2, 3).double()
    labels = torch.tensor([2, 0])
    plain = 0.0
    for own, other, label in zip(scores, taught, labels, strict=True):
        plain -= float((own.exp() / own.exp().sum())[label].log())
        p, q = (other / 3).exp(), (own / 3).exp()
        plain -= counts * float((p / p.sum() * (q / q.sum()).log()).sum())
    hint = torch.randn(2, 4, 1, 1)
    found = total_loss((scores, hint), labels, DISTILLED, step, teacher=(taught, hint))
    assert float(found) == pytest.approx(plain, rel=1e-12)


def test_what_answers_count_falls_linearly_over_any_training():
    assert [guidance(replace(DISTILLED, steps=6), step) for step in range(0, 7, 2)] == [4, 3, 2, 1]
    other = replace(DISTILLED, guidance=(2.0, 0.0), steps=10)
    assert [guidance(other, step) for step in (0, 5, 10)] == [2, 1, 0]


def test_further_outputs_that_are_no_scores_cannot_count_as_scores():
    recipe = replace(HINT, lesson="none", auxiliary=0.3)
    with pytest.raises(ValueError, match="auxiliary is a weight of further scores"):
        total_loss((torch.zeros(1, 3), torch.zeros(1, 192, 7, 7)), torch.tensor([0]), recipe, 0)


def student() -> nn.Module:
    """Whose filters let a gradient through; as published, it is too faint."""
    torch.manual_seed(0)
    net = initialize(build("fitnet19", 3), nn.init.kaiming_normal_)
    for module in net.modules():
        if hasattr(module, "max_norm"):  # which none exceeds at first
            module.weight.data.copy_(torch.renorm(module.weight.data, 2, 0, 0.9 * module.max_norm))
    return net


def taught(images: Tensor) -> tuple[Tensor, Tensor]:
    assert not torch.is_grad_enabled()
    small = nn.functional.interpolate(images, 7)
    return small.mean(dim=(2, 3)), small.mean(dim=1, keepdim=True).expand(-1, 192, -1, -1)


def learned(recipe, how: StepOptions | None = None) -> tuple[nn.Module, list[loop.Step]]:
    run = loop.start(student(), recipe)
    run.teacher = taught
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    return run.net, list(loop.train(run, iter([(images, labels)] * 3), recipe, how))


def test_a_hint_changes_the_layers_up_to_the_guided_one_and_no_other():
    before, (after, steps) = student().state_dict(), learned(replace(HINT, lr=HINT.lr / 10))
    changed = {
        name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before[name])
    }
    layers = [*(f"h{i}" for i in range(11)), "heads.pool10.h"]
    assert changed == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    losses = [float(step.loss) for step in steps]
    assert losses[-1] < losses[0] and all(0 <= int(step.wrong) <= 4 for step in steps)


def test_a_distillation_changes_all_but_the_head_of_the_hint():
    before, (after, _) = student().state_dict(), learned(DISTILLED)
    for name, tensor in after.state_dict().items():
        assert torch.equal(tensor, before[name]) == name.startswith("heads."), name


@pytest.mark.parametrize("recipe", [HINT, DISTILLED], ids=["hint", "distillation"])
def test_a_lesson_is_the_same_however_many_images_pass_at_once(recipe):
    recipe = replace(recipe, norm_group=1, steps=1)
    torch.manual_seed(1)
    _, [whole] = learned(recipe, StepOptions(images=4))
    torch.manual_seed(1)
    _, [parts] = learned(recipe, StepOptions(images=1))
    assert float(whole.loss) == pytest.approx(float(parts.loss), rel=1e-5)


def test_a_regressor_begins_as_it_is_published_and_learns_as_convolutions_do():
    net = build("fitnet19", 10)
    regressor = net.heads["pool10"].h
    assert regressor.weight.shape == (384, 80, 2, 2)
    assert 0.04 < regressor.weight.abs().max().item() <= 0.05
    assert net.h10.weight.abs().max().item() <= 0.005
    scores, guided = net.train()(torch.randn(2, 3, 32, 32))
    assert (scores.shape, guided.shape) == ((2, 10), (2, 192, 7, 7))
    assert net.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    run = loop.start(net, HINT)
    shares = {p: group["lr_scale"] for group in run.optimizer.param_groups for p in group["params"]}
    assert shares[regressor.weight] == shares[net.h0.weight] == 0.05 and shares[net.fc.weight] == 1
    assert dict(run.max_norms)[regressor.weight] == 0.9


def test_preprocessings_are_the_same_but_for_the_last_bits():
    one = Preprocessing(torch.rand(3, 2, 2), torch.ones(3, 1, 1), (2, 2), None, True, torch.eye(12))
    assert distillation.same_preprocessing(one, replace(one, shorter=5, mean=one.mean * (1 + 1e-7)))
    for change in (
        {"contrast": False},
        {"mean": one.mean + 0.01},
        {"mean": torch.rand(3, 1, 1)},
        {"whitening": None},
        {"whitening": torch.eye(12) * 1.01},
    ):
        assert not distillation.same_preprocessing(one, replace(one, **change)), change


# By the command line


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("data") / "pets", 3, ("cat", "dog"))


def trained(command, data: Path, out: Path, network: str, *words: object) -> Answer:
    """Without the whitening, which takes seconds, but where `words` say so; weights to begin with
    have a preprocessing of their own."""
    sizes = [word for name, n in SIZES.items() for word in ("--set", f"{name}={n}")]
    contrast = () if "--weights" in words else ("--set", "contrast=normalized")
    return command(
        "train", network, "--data", data, "--root", data.parent / "root", "--out", out, "--json",
        "--workers", 0, *contrast, *sizes, *EXACT, *words,
    )  # fmt: skip


@pytest.fixture(scope="module")
def teacher(command, data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "run"
    answer = trained(command, data, run, "maxout", "--set", "steps=1")
    assert answer.status == 0, answer.err
    return run


@pytest.fixture(scope="module")
def hinted(command, data, teacher, tmp_path_factory) -> Path:
    """The first stage."""
    run = tmp_path_factory.mktemp("hinted") / "run"
    words = ("--recipe", "fitnet-hint", "--teacher", teacher)
    answer = trained(command, data, run, "fitnet19", *words)
    assert answer.status == 0, answer.err
    return run


def test_a_compared_network_begins_with_weights_for_other_classes(command, teacher, tmp_path):
    other = draw_pictures(tmp_path / "data" / "birds", 3, ("gull", "owl", "tern"))
    answer = trained(command, other, tmp_path / "run", "maxout", "--weights", teacher)
    assert answer.status == 0, answer.err
    assert load(tmp_path / "run").classes == ("gull", "owl", "tern")


def distilled(command, data: Path, out: Path, teacher: Path, hinted: Path) -> Answer:
    """The second."""
    words = ("--recipe", "fitnet-distilled", "--teacher", teacher, "--weights", hinted)
    return trained(command, data, out, "fitnet19", *words)


def test_a_hint_is_the_teacher_s_second_hidden_layer(hinted, teacher):
    net, recipe, known = load(teacher).net, read_recipe(hinted), read_environment(hinted)
    assert recipe.teacher == checkpoint.weights_sha256(net.state_dict())
    own = load(hinted).preprocessing
    teach = distillation.teacher_function(recipe, known, ("cat", "dog"), own, ComputeConfig())
    images, seen = torch.randn(2, 3, 32, 32), []
    net.pool1.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        scores, hint = teach(images)
        assert torch.allclose(net(images), scores, atol=1e-6)
    assert torch.allclose(seen[0], hint, atol=1e-6) and hint.shape == (2, 192, 7, 7)


def read_environment(run: Path) -> dict:
    return json.loads((run / "environment.json").read_text())


def test_a_hint_leaves_the_layers_behind_the_guided_one_as_they_were_drawn(hinted):
    torch.manual_seed(0)
    before, after = build("fitnet19", 2).state_dict(), load(hinted).net.state_dict()
    for layer in (*(f"h{i}" for i in range(11, 18)), "fc"):
        for name in (f"{layer}.weight", f"{layer}.bias"):
            assert torch.equal(before[name], after[name]), name
    assert not torch.equal(before["heads.pool10.h.weight"], after["heads.pool10.h.weight"])


def test_a_distilled_run_that_was_stopped_ends_as_one_that_was_not(
    command, data, teacher, hinted, tmp_path
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    answer = distilled(command, data, whole, teacher, hinted)
    judged = command("evaluate", whole, "--data", data, "--threads", 1, "--json")
    assert judged.status == 0, judged.err  # small pictures as they are, as in training
    assert judged.json["resize"] is None
    assert judged.json["wrong_top1"] == answer.json["wrong_top1"]
    assert answer.status == 0, answer.err
    recipe, known = read_recipe(whole), read_environment(whole)
    assert known["data"]["teacher"] == str(teacher.resolve())
    assert recipe.start == checkpoint.weights_sha256(load(hinted).net.state_dict())
    where = {key: known["data"][key] for key in ("where", "root", "teacher")}
    pictures = pictures_of(str(data), Path(where["root"]), size=32)
    begin(stopped, recipe, pictures, where, ComputeConfig(threads=1), load(hinted))
    for event in advance(stopped, pictures, RunOptions(checkpoint_minutes=0)):
        if event.step == 2:
            break
    again = command("resume", stopped, "--json", "--workers", 0)
    assert again.status == 0, again.err
    assert again.json["weights_sha256"] == answer.json["weights_sha256"]


@pytest.mark.parametrize(
    ("network", "words", "sentence"),
    [
        ("fitnet19", ("--recipe", "fitnet-hint"), "lesson=hint needs a teacher"),
        ("fitnet19", ("--teacher", "TEACHER"), "does not use a teacher"),
        ("fitnet19", ("--recipe", "fitnet-hint", "--teacher", "HINTED"), "one is of fitnet19"),
        ("fitnet19", ("--recipe", "fitnet-hint", "--teacher", "."), "holds no finished run"),
        ("nin", ("--recipe", "fitnet-hint", "--teacher", "TEACHER"), "nin has no layer for a hint"),
    ],
)
def test_what_cannot_be_taught_is_refused(
    command, data, teacher, hinted, tmp_path, network, words, sentence
):
    places = {"TEACHER": teacher, "HINTED": hinted}
    answer = trained(command, data, tmp_path / "run", network, *(places.get(w, w) for w in words))
    assert answer.status == 1
    assert sentence in answer.complaint
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_pictures_is_refused(command, data, teacher, tmp_path):
    words = ("--recipe", "fitnet-hint", "--teacher", teacher)
    other = draw_pictures(tmp_path / "others", 3, ("cat", "dog"), seed=1)
    answer = trained(command, other, tmp_path / "run", "fitnet19", *words)
    assert answer.status == 1 and "sees pictures after another preprocessing" in answer.complaint
    other = draw_pictures(tmp_path / "birds", 2, ("hen", "owl"))
    answer = trained(command, other, tmp_path / "run2", "fitnet19", *words)
    assert answer.status == 1
    assert "knows the classes cat, dog, and the data has hen, owl" in answer.complaint


def test_another_teacher_in_the_same_place_is_refused(teacher, hinted):
    recipe, known, own = read_recipe(hinted), read_environment(hinted), load(hinted).preprocessing
    with pytest.raises(ValueError, match="other weights than the recipe says"):
        distillation.teacher_function(
            replace(recipe, teacher="0"), known, ("cat", "dog"), own, ComputeConfig()
        )
    with pytest.raises(ValueError, match="the run has no teacher"):
        distillation.teacher_function(recipe, {"data": {}}, ("cat", "dog"), own, ComputeConfig())
