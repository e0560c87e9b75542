"""`residual reproduce` trains the detectors that a table lacks, once."""

from pathlib import Path

from made_boxes import draw_voc
from test_detect_command import SMALL

from residual.reproduction import table7
from residual.reproduction.detectors import Made, fitting
from residual.reproduction.table9 import runs
from residual.tasks.detection.recipe import MULTISCALE, Testing, scaled

OF_SCRATCH = ("--set", "norm=group", "--set", "fixed=0", "--set", "shorter=64")


def test_a_table_trains_what_it_lacks_and_only_that(command, tmp_path):
    folder = draw_voc(tmp_path / "made", n=3)
    words = ("reproduce", "table7", "--data", folder, "--depths", 18, "--steps", 2, *OF_SCRATCH)
    words += (*SMALL[4:], "--set", "batch=1", "--set", "drops=")
    first = command(*words, cwd=tmp_path)
    assert first.status == 0, first.err
    (kept,) = (tmp_path / "results").glob("*.json")
    assert kept.name.startswith("made-trainval-detector-resnet18-2steps-seed0-")
    assert "ResNet-18" in first.out and "step 2 of 2" in first.err
    again = command(*words, cwd=tmp_path)
    assert again.status == 0 and again.out == first.out and "step" not in again.err


def test_an_ensemble_and_other_ways_to_test_have_files_of_their_own():
    made = [Made(each, "made", "f" * 64) for each in runs("", 10, 1, [50])]
    names = [each.file(Path("x")).name for each in made]
    assert len(set(names)) == len(names)
    assert sum(name.endswith("-refined-multiscale-3together.json") for name in names) == 1
    (three,) = (each.runs() for each in made if each.wanted.members == 3)
    assert ["seed0" in three[0], "seed1" in three[1], "seed2" in three[2]] == [True] * 3


def test_on_data_of_ones_own_a_table_asks_for_its_splits_and_for_scales_in_proportion():
    wanted = runs("", 10, 1, [50])
    found = fitting(wanted, ("train", "trainval", "test"))
    assert {(d.recipe.train_split, d.recipe.test_split) for d in found} == {("trainval", "test")}
    assert {d.recipe.train_split for d in fitting(wanted, ("train2014",))} == {"train2014"}
    years = fitting(table7.runs("", 10, 1, []), ("07trainval", "07test", "12trainval"))
    assert len(years) == 4 and {d.recipe.train_split for d in years} == {"07+12", "07++12"}
    assert scaled(600) == MULTISCALE and scaled(300) == (100, 200, 300, 400, 500)
    assert any(d.testing.scales == MULTISCALE for d in found) and Testing() in [
        d.testing for d in found
    ]


def test_a_table_about_boxes_needs_data_to_train_on(command):
    answer = command("reproduce", "table7")
    assert answer.status == 2 and "name a folder of them with --data" in answer.err
