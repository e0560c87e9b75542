"""What the commands claim: their exit status, and one sentence for what is wrong."""

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from conftest import EXACT, draw_pictures

from residual import __version__
from residual.cli.app import one_sentence
from residual.data.sources import digits
from residual.runs import folder
from residual.tasks.classification.load import read_recipe
from residual.training import checkpoint

NAMES = (
    *("networks", "describe", "train", "resume", "evaluate", "predict", "report", "responses"),
    *("reproduce", "convert"),
)
TINY = ("resnet8", "--set", "batch=8", "--set", "norm_group=8", *EXACT)


def module(*words: object) -> subprocess.CompletedProcess:
    """`python -m residual`, in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-m", "residual", *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_module_is_the_command():
    found = module("--help")
    assert found.returncode == 0
    assert not found.stderr
    for name in NAMES:
        assert f" {name} " in found.stdout
    assert "..." not in found.stdout.split("Commands:")[1]  # no summary is cut
    assert module("--version").stdout == f"residual {__version__}\n"


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help_with_an_example(command, name):
    answer = command(name, "--help")
    assert answer.status == 0
    assert f"Example: residual {name}" in " ".join(answer.out.split())


def test_there_is_no_traceback_but_with_debug(command, process, tmp_path):
    for words in (("--debug", "resume", tmp_path), ("resume", tmp_path, "--debug")):
        answer = process(*words)
        assert answer.status == 1
        assert "Traceback" in answer.err
        assert "NoRun" in answer.err
    assert "holds no run" in command("resume", tmp_path).complaint


WRONG = {
    "a command that there is not": (("learn",), "learn"),
    "an option that there is not": (("train", "resnet8", "--speed", 3), "--speed"),
    "no network": (("train",), "argument 'network'"),
    "a network that there is not": (("train", "resnet21"), "no network 'resnet21'"),
    "another word for a network": (("train", "vit"), "no network 'vit'"),
    "a recipe that there is not": (("train", "resnet8", "--recipe", "x"), "no recipe 'x'"),
    "a field that there is not": (("train", "resnet8", "--set", "speed=3"), "'speed=3' sets no"),
    "no assignment": (("train", "resnet8", "--set", "nonsense"), "'nonsense' sets no field"),
    "a value of another kind": (("train", "resnet8", "--set", "lr=fast"), "lr is like 0.1"),
    "groups that do not fit": (("train", "resnet8", "--set", "norm_group=48"), "does not divide"),
    "a rate below zero": (("train", "resnet8", "--set", "lr=-1"), "lr is at least 0"),
    "no steps": (("train", "resnet8", "--steps", 0), "--steps"),
    "a seed below zero": (("train", "resnet8", "--seed", -1), "--seed"),
    "a seed beyond all seeds": (("train", "resnet8", "--seed", 2**64), "seed is below"),
    "a device that is not here": (("train", "resnet8", "--device", "abacus"), "no device 'abacus'"),
    "a precision that there is not": (("train", "resnet8", "--precision", "x"), "no precision 'x'"),
    "a split that there is not": (("evaluate", "x", "--split", "exam"), "no split 'exam'"),
    "a protocol that there is not": (("evaluate", "x", "--protocol", "99crop"), "'99crop'"),
    "no picture": (("predict", "x"), "argument 'images'"),
    "no labels": (("predict", "x", "y", "--top", 0), "--top"),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_a_wrong_command_line_ends_with_status_2_and_names_what_is_wrong(command, words, named):
    answer = command(*words)
    assert answer.status == 2, answer.err
    assert named.lower() in " ".join(answer.err.split()).lower()
    assert "Traceback" not in answer.err
    assert not answer.out


UNDONE = {
    "a run that is not there": (("resume", "none"), "no folder none"),
    "a file that is not there": (("evaluate", "none"), "none"),
    "weights that are not there": (("predict", "none", "a.png"), "none"),
    "a run to report on that is not there": (("report", "none"), "none"),
    "data that there is not": (("train", "resnet8", "--data", "mnist"), "digits, cifar10 or a fol"),
    "photographs that are digits": (("train", "resnet50", *EXACT), "digits has small pictures"),
    "plain photographs, too": (("train", "plain18", *EXACT), "digits has small pictures"),
    "no folder for a run": (("train", *TINY, "--steps", 2, "--out", "/proc/none"), "/proc/none"),
}


@pytest.mark.parametrize(("words", "named"), UNDONE.values(), ids=UNDONE)
def test_what_cannot_be_done_ends_with_status_1_and_one_sentence(command, words, named, tmp_path):
    answer = command(*words, cwd=tmp_path)
    assert answer.status == 1, answer.err
    assert named in answer.complaint
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


ODD = {
    "a fault of ours": (KeyError("classes"), "KeyError: 'classes' (this is a bug in residual;"),
    "a fault without words": (IndexError(), "IndexError (this is a bug in residual; --debug"),
    "one of torch's without words": (RuntimeError(), "RuntimeError (this is a bug in residual"),
    "torch's many lines": (RuntimeError("bad\n\nat: x"), "bad"),
    "several lines": (ValueError("the header:\n  is cut"), "the header: is cut"),
    "cut bytes": (struct.error("unpack needs 4"), "error: unpack needs 4 (this is a bug in"),
    "no memory": (MemoryError(), "the memory of this machine does not suffice"),
    "an extra": (
        ModuleNotFoundError("No module named 'onnx'", name="onnx"),
        "No module named 'onnx'; pip install 'residual-learning[all]'",
    ),
    "a module of ours": (
        ImportError("cannot import", name="residual.x"),
        "ImportError: cannot imp",
    ),
}


@pytest.mark.parametrize(("error", "said"), ODD.values(), ids=ODD)
def test_whatever_a_command_meets_is_one_sentence_and_status_1(error, said, capsys):
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as end:
        one_sentence(command)()
    assert end.value.exit_code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"residual: {said}")


@pytest.mark.parametrize("words", [("evaluate",), ("predict",), ("detect", "evaluate")])
def test_a_checkpoint_without_a_network_is_named(command, tmp_path, words):
    file = tmp_path / "proposals.safetensors"
    checkpoint.save(file, {"0": torch.ones(2)}, {})
    more = ("a.png",) if words == ("predict",) else ("--data", tmp_path)
    answer = command(*words, file, *more)
    assert answer.status == 1
    assert f"{file} holds no network" in answer.complaint


def shell(line: str) -> subprocess.CompletedProcess:
    """A command with redirections; RESIDUAL stands for `python -m residual`."""
    line = line.replace("RESIDUAL", f"{shlex.quote(sys.executable)} -m residual")
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, env=buffered
    )


@pytest.mark.parametrize(
    ("streams", "status"),
    [("2>&-", 1), ("2>&- >&-", 1), ("<&- 2>&-", 1), ("2>/dev/full", 1), ("2>&1 | true", 1)],
)
def test_a_failure_that_nobody_hears_has_its_status(streams, status, tmp_path):
    command, _, pipe = streams.partition(" | ")
    line = f"RESIDUAL resume {tmp_path} {command}; echo $? >{tmp_path}/status"
    shell(f"( {line} ) | {pipe}" if pipe else line)
    assert (tmp_path / "status").read_text() == f"{status}\n"


@pytest.mark.parametrize(("streams", "status"), [(">&- 2>&-", 0), (">/dev/full", 1), ("| true", 0)])
def test_what_nobody_reads_is_done_and_what_cannot_be_written_is_not(streams, status, tmp_path):
    command, _, pipe = streams.partition("| ")
    words = f"train {' '.join(TINY)} --steps 2 --out {tmp_path}/run"
    line = f"RESIDUAL {words} {command}; echo $? >{tmp_path}/status"
    found = shell(f"( {line} ) | {pipe}" if pipe else line)
    assert (tmp_path / "status").read_text() == f"{status}\n"
    said = [each for each in found.stderr.splitlines() if each.startswith("residual: ")]
    assert said == ["residual: what is printed cannot be written"] * status
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    code = "import os; from residual.cli import app; app.open_closed(); print('x' * 9_000); "
    code += f"opened = os.open('{tmp_path}/file', os.O_CREAT | os.O_RDWR); os.write(2, b'y')"
    assert shell(f'{sys.executable} -c "{code}" <&- >&- 2>&-').returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_training_ends_with_one_object_and_leaves_a_run(command, tmp_path):
    answer = command("train", *TINY, "--steps", 2, "--json", cwd=tmp_path)
    assert answer.status == 0, answer.err
    assert len(answer.out.splitlines()) == 1
    said = answer.json
    assert said.keys() == {"run", "step", "seen", "wrong_top1", "error_top1", "weights_sha256"}
    assert (said["run"], said["step"], said["seen"]) == ("runs/resnet8-1", 2, 360)
    assert said["error_top1"] == 100 * said["wrong_top1"] / 360
    result = json.loads((tmp_path / "runs" / "resnet8-1" / "result.json").read_text())
    assert {key: result[key] for key in said if key in result} == {
        key: said[key] for key in said if key in result
    }
    assert result["data"]["fingerprint"] == digits().fingerprint
    again = command("train", *TINY, "--steps", 2, cwd=tmp_path)
    assert "runs/resnet8-2 has it; see: residual report runs/resnet8-2" in again.out
    assert f"{said['error_top1']:.2f} % error" in again.out


def test_progress_is_plain_lines_on_stderr(command, tmp_path):
    answer = command("train", *TINY, "--steps", 3, "--out", tmp_path / "run")
    assert "\x1b" not in answer.err
    for line in answer.err.splitlines():
        for word in ("step", "loss", "training error", "rate", "images/s", "waiting for data"):
            assert word in line


def test_a_folder_that_holds_a_run_is_refused_with_the_command_that_goes_on(command, finished):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    answer = command("train", *TINY, "--out", finished)
    assert answer.status == 1
    assert f"go on with: residual resume {finished}" in answer.complaint
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_another_budget_keeps_the_proportions_and_a_field_is_set_as_it_stands(command, tmp_path):
    words = ("--steps", 4, "--seed", 7, "--set", "weight_decay=0", "--set", "mirror=true")
    assert command("train", *TINY, *words, "--out", tmp_path / "run").status == 0
    recipe = read_recipe(tmp_path / "run")
    assert (recipe.steps, recipe.drops, recipe.seed) == (4, (2, 3), 7)
    assert (recipe.batch, recipe.weight_decay, recipe.mirror) == (8, 0, True)


def test_a_loss_that_is_no_number_is_one_sentence_with_step_rate_and_images(command, tmp_path):
    words = ("--steps", 40, "--set", "lr=1e30", "--set", "drops=", "--checkpoint-minutes", 60)
    answer = command("train", *TINY, *words, "--out", tmp_path / "run")
    assert answer.status == 1
    said = answer.complaint
    assert "the loss of step " in said
    assert "at rate 1e+30" in said
    assert len(said.rpartition("of the images ")[2].split(", ")) == 8
    others = [line for line in answer.err.splitlines() if line != said]
    assert all(line.startswith("run: step ") for line in others)
    assert not folder.checkpoints(tmp_path / "run")


@pytest.fixture(scope="module")
def by_workers(command, pictures, tmp_path_factory) -> list[str]:
    """The weights of one training with 0, 1 and 3 processes that decode, and with another seed."""
    found = []
    for workers, seed in ((0, 0), (1, 0), (3, 0), (0, 1)):
        place = tmp_path_factory.mktemp("workers")
        answer = command(
            "train", *TINY, "--data", pictures, "--steps", 4, "--workers", workers, "--seed", seed,
            "--root", place / "root", "--out", place / "run", "--json",
        )  # fmt: skip
        assert answer.status == 0, answer.err
        found.append(answer.json["weights_sha256"])
    return found


def test_the_number_of_workers_changes_no_weight(by_workers):
    assert len(set(by_workers[:3])) == 1


def test_another_seed_changes_the_weights(by_workers):
    assert by_workers[3] != by_workers[0]


def test_a_folder_by_a_short_name_is_found_from_elsewhere(command, pictures, tmp_path):
    words = ("--data", pictures.name, "--steps", 2, "--root", tmp_path / "root")
    run = tmp_path / "run"
    answer = command("train", *TINY, *words, "--out", run, cwd=pictures.parent)
    assert answer.status == 0, answer.err
    assert command("evaluate", run, *EXACT, cwd=tmp_path).status == 0


def test_the_digits_are_the_digits_where_a_folder_has_that_name(command, tmp_path):
    (tmp_path / "digits").mkdir()
    words = (*TINY, "--steps", 2, "--out", "run")
    assert command("train", *words, cwd=tmp_path).status == 0
    answer = command("evaluate", "run", *EXACT, cwd=tmp_path)
    assert answer.status == 0, answer.err


def test_a_damaged_training_picture_is_named_before_a_run_is_made(command, tmp_path):
    pets = draw_pictures(tmp_path / "pets", 2, ("cat", "dog"))
    (pets / "train" / "cat" / "0.png").write_text("no picture")
    words = ("--data", pets, "--root", tmp_path / "root", "--out", tmp_path / "run")
    answer = command("train", *TINY, *words)
    assert answer.status == 1
    assert "train/cat/0.png" in answer.complaint
    assert not (tmp_path / "run").exists()


def test_small_pictures_are_skipped_as_photographs_are(command, tmp_path):
    pets = draw_pictures(tmp_path / "pets", 4, ("cat", "dog"))
    (pets / "train" / "cat" / "0.png").write_text("no picture")
    words = ("--data", pets, "--root", tmp_path / "root", "--bad-images", "skip", "--steps", 1)
    answer = command("train", "resnet8", *words, "--out", tmp_path / "run")
    assert answer.status == 0
    assert "damaged training pictures are left out (1): train/cat/0.png" in answer.err
    (pets / "train" / "dog" / "3.png").write_text("no picture")
    answer = command("train", "resnet8", *words, "--out", tmp_path / "other")
    assert "2 of 8 training pictures are damaged, more than the 1 that may be" in answer.err
    assert answer.status == 1 and not (tmp_path / "other").exists()


def test_a_damaged_test_picture_counts_as_wrong(command, finished, tmp_path):
    data = draw_pictures(tmp_path / "signs", 2, ("3", "8"))
    (data / "test" / "8" / "0.png").write_bytes(b"")
    words = ("--data", data, "--root", tmp_path / "root", "--threads", 1)
    answer = command("evaluate", finished, *words, "--json")
    assert answer.status == 0
    assert (answer.json["seen"], answer.json["damaged"]) == (4, 1)


def test_a_network_is_judged_on_a_test_set_alone(command, finished, tmp_path):
    data = draw_pictures(tmp_path / "signs", 3, ("3", "8"))
    words = ("--root", tmp_path / "root", "--threads", 1, "--json")
    both = command("evaluate", finished, "--data", data, *words).json
    shutil.rmtree(data / "train")
    alone = command("evaluate", finished, "--data", data, *words).json
    for key in ("seen", "wrong_top1"):
        assert alone[key] == both[key]
    refused = command("train", *TINY, "--data", data, "--out", tmp_path / "run")
    assert refused.status == 1 and "has no train" in refused.complaint


def test_a_run_that_is_not_finished_says_so_wherever_it_is_used(command, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "result.json").unlink()
    answer = command("evaluate", run, "--json", *EXACT)
    assert answer.status == 0 and f"{run} is not finished: 60 of 60 steps" in answer.err
    assert "not finished" not in command("evaluate", finished, "--json", *EXACT).err


def test_packed_data_is_checked_when_it_is_packed(command, tmp_path):
    (tmp_path / "packed.json").write_text("{}")
    assert "was checked when it was packed" in command("data", "check", tmp_path).complaint


def test_the_networks_are_listed_as_others_rely_on(command):
    rows = command("networks", "--json").json
    assert {"resnet20", "resnet50", "plain34", "resnet1202"} <= {row["name"] for row in rows}
    keys = {"name", "family", "input_size", "classes", "parameters", "multiply_adds", "paper"}
    for row in rows:
        assert row.keys() == keys
        assert isinstance(row["parameters"], int)
        assert isinstance(row["multiply_adds"], int)


def test_the_package_stands_where_the_tests_are():
    import residual

    assert Path(residual.__file__).parents[1] == Path(__file__).parents[1]
