"""From the first step to the table, by the commands that a person types, on digits, in seconds."""

import json

import pytest
from conftest import EXACT

import residual
from residual.data.decode import DamagedImage
from residual.data.sources import digits
from residual.device import ComputeConfig
from residual.distributed import World
from residual.models.registry import build
from residual.runs.session import RunContext, Session
from residual.storage import read_json
from residual.tasks.classification.task import Classification
from residual.tasks.classification.train import begin, recipe_for
from residual.training.events import RunOptions

SMALL = ("--data", "digits", "--depths", "8", "14", "--steps", "20", *EXACT)


def test_a_finished_run_is_evaluated_to_the_number_that_training_printed(command, finished):
    result = json.loads((finished / "result.json").read_text())
    judged = command("evaluate", finished, "--json").json
    assert (judged["seen"], judged["wrong_top1"]) == (result["seen"], result["wrong_top1"])
    assert judged["seen"] == 360
    twice = command("evaluate", finished, finished, "--json").json
    assert twice["wrong_top1"] == judged["wrong_top1"]
    assert twice["networks"] == ["resnet8", "resnet8"]


def test_a_finished_run_is_reported_on_one_page(command, finished, tmp_path):
    run = tmp_path / "run"
    answer = command("resume", finished, "--out", run)  # finished: nothing is copied or trained
    assert answer.status == 0 and not run.exists()
    answer = command("report", finished, finished)
    assert answer.status == 0, answer.err
    page = (finished / "report" / "report.html").read_text()
    assert "resnet8" in page and page.count("src=") == page.count('src="data:image/')
    names = {path.name for path in (finished / "report").iterdir()}
    assert {"curves.png", "curves.svg", "confusion.png", "confusion.svg", "together.svg"} <= names
    assert "per-class.csv" in names


def test_the_responses_of_a_run_are_one_for_each_3x3_layer(command, finished):
    answer = command("responses", finished, "--json").json
    assert answer["network"] == "resnet8" and len(answer["responses"]) == 7
    assert all(value > 0 for value in answer["responses"])
    drawn = command("responses", finished)
    assert drawn.status == 0 and "responses.png" in drawn.out


@pytest.fixture(scope="module")
def reproduced(command, tmp_path_factory):
    """Fig. 6 of two depths, with nothing there before."""
    place = tmp_path_factory.mktemp("reproduced")
    answer = command("reproduce", "figure6", *SMALL, "--side-by-side", 2, cwd=place)
    assert answer.status == 0, answer.err
    return place, answer


def test_a_figure_is_reproduced_from_nothing(reproduced):
    place, answer = reproduced
    for network in ("plain8", "plain14", "resnet8", "resnet14"):
        row = next(line for line in answer.out.splitlines() if line.startswith(f"| {network} "))
        assert row.count("(1 seed)") == 2
    assert "not run" in answer.out  # the paper's own depths
    assert (place / "results" / "figures" / "figure6-digits-20-steps.svg").exists()
    assert len(list((place / "results").glob("*.json"))) == 4


def test_finished_results_are_used_and_never_changed(command, reproduced):
    place, _ = reproduced
    before = {path: path.stat().st_mtime_ns for path in (place / "results").glob("*.json")}
    again = command("reproduce", "figure6", "figure1", "table6", *SMALL, cwd=place)
    assert again.status == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "step 1 of" not in again.err and "training in" not in again.err
    other = command("reproduce", "figure6", *SMALL, "--precision", "bf16", cwd=place)
    assert other.err.count(".json is the result of a training in float32; to train in bf16") == 4


def test_what_there_is_is_printed_without_training(command, reproduced, tmp_path):
    place, _ = reproduced
    shown = command("reproduce", "all", "--only-print", cwd=place)
    assert shown.status == 0 and "figure6: digits, 20 steps" in shown.out
    assert "Not covered: localisation and ImageNet detection (Tables 12 to 14)" in shown.out
    nothing = command("reproduce", "table6", "--only-print", cwd=tmp_path)
    assert nothing.status == 0 and "8.75" in nothing.out and nothing.out.count("not run") == 12


def test_figure_7_measures_the_runs_that_there_are(command, tmp_path):
    words = ("--data", "digits", "--depths", "20", "--steps", "3", *EXACT)
    answer = command("reproduce", "figure7", *words, cwd=tmp_path)
    assert answer.status == 0, answer.err
    measured = list((tmp_path / "results").glob("*-responses.json"))
    assert len(measured) == 2  # plain20 and resnet20
    assert all(len(json.loads(path.read_text())["responses"]) == 19 for path in measured)


def test_foreign_weights_come_in_and_are_used(command, pictures, tmp_path):
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tmp_path / "theirs.pth")
    words = ("convert", tmp_path / "theirs.pth", "--network", "resnet18")
    answer = command(*words, "--out", tmp_path / "ours")
    assert answer.status == 0 and "0 missing, 0 unexpected" in answer.out
    picture = next(pictures.rglob("*.png"))
    (found,) = command("predict", tmp_path / "ours", picture, "--top", 3, "--json").json
    assert len(found["labels"]) == 3 and 0 < found["labels"][0]["probability"] <= 1
    assert sum(p.numel() for p in build("resnet18").parameters()) == 11_689_512


def test_responses_are_not_measured_on_pictures_of_another_size(command, pictures, tmp_path):
    words = ("--data", pictures, "--root", tmp_path / "root", "--out", tmp_path / "run", *EXACT)
    assert command("train", "resnet8", "--steps", 1, *words).status == 0
    answer = command("responses", tmp_path / "run", "--data", "digits")
    assert answer.status == 1
    assert "takes pictures of 32x32 pixels, and those of digits are 8x8" in answer.complaint


def test_every_key_is_printed_when_weights_are_not_all_there(command, tmp_path):
    import torch
    from torchvision.models import resnet18

    weights = resnet18().state_dict()
    gone = [key for key in weights if key.startswith("layer4.1.")]
    torch.save({k: v for k, v in weights.items() if k not in gone}, tmp_path / "part.pth")
    words = ("convert", tmp_path / "part.pth", "--network", "resnet18", "--out", tmp_path / "o")
    answer = command(*words)
    assert answer.status == 1 and not (tmp_path / "o").exists()
    counted = sum(key.endswith("num_batches_tracked") for key in gone)
    assert answer.out.count("missing: conv5_x.1.") == len(gone) - counted
    assert "conv1.weight -> conv1.0.0.weight" in answer.out


def test_a_field_that_a_recipe_lacks_and_a_folder_that_cannot_be_made_are_named(tmp_path):
    with pytest.raises(ValueError, match="no field 'step' in a recipe; it has network"):
        next(residual.train("resnet8", step=3, out=str(tmp_path / "run")))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot make the folder .*file: Not a directory"):
        next(residual.train("resnet8", steps=3, out=str(tmp_path / "file")))


def test_damaged_pictures_that_all_processes_skipped_count_together(tmp_path):
    class Others(World):
        def all_gather(self, own):
            return [*own, "b.jpg", "c.jpg"]

    data, run = digits(), tmp_path / "run"
    recipe = recipe_for("resnet8", "digits")
    where = {"where": "digits", "root": str(tmp_path)}
    begin(run, recipe, data, where, ComputeConfig(threads=1, precision="float32"))
    how = ComputeConfig(threads=1, precision="float32")
    context = RunContext(run, read_json(run / "environment.json"), RunOptions(), how)
    task = Classification(recipe, data, context)
    session = Session(task, context)
    task.skipped = {"b.jpg": "torn"}
    session._save()
    context.world = Others()
    session._save()
    task.skipped = {"a.jpg": "torn"}
    with pytest.raises(
        DamagedImage, match="3 of 1,437 training pictures are damaged, more than the 2"
    ):
        session._save()
