"""Packed data is read as its source is: shards in a folder, and in a local S3 server."""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("streaming", reason="needs the extra `cloud`: make test-cloud")
pytest.importorskip("moto", reason="needs moto[server]: make test-cloud")

from residual.data import packed as packed_
from residual.data.decode import DamagedImage, as_pixels
from residual.data.folder import open_folder
from residual.data.loader import LoaderOptions, file_batches
from residual.data.normalization import Preprocessing
from residual.data.packed import CONTENTS_FILE, is_packed, open_packed
from residual.data.sampler import DataConfig
from residual.distributed import SINGLE_PROCESS, World
from residual.preparation.pack import PackOptions, pack

HOW = DataConfig(batch=6, seed=3, norm_group=2, crop="scale", size=24, scales=(28, 40), block=5)
MEAN = Preprocessing(torch.full((3, 1, 1), 0.5), torch.ones(3, 1, 1), (24, 24))

pytest_plugins = "made_photographs"  # folder, packed


@pytest.fixture(scope="module")
def store():
    """An S3 server in this process, which the store's own variables lead to."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=variables["S3_ENDPOINT_URL"])
        client.create_bucket(Bucket="pictures")
        yield client
    server.stop()


@pytest.mark.parametrize("how", [PackOptions(), PackOptions(shorter=60), PackOptions(form="raw")])
def test_a_packed_copy_has_its_sources_numbers_and_with_equal_pixels_its_name(
    folder, tmp_path, how
):
    pack(folder, str(tmp_path / "to"), how)
    files, copy = open_folder(folder, tmp_path), open_packed(str(tmp_path / "to"), tmp_path)
    equal = how.form == "raw"
    assert copy.name == ("pets" if equal else "pets (packed copy)")
    assert (copy.fingerprint == files.fingerprint) == equal
    assert copy.classes == files.classes
    for name in ("train", "val"):
        a, b = files.split(name), copy.split(name)
        assert a.labels.tolist() == b.labels.tolist()
        assert [a.name(i) for i in range(len(a))] == [b.name(i) for i in range(len(b))]


def test_a_damaged_picture_is_named_and_nothing_is_left(folder, tmp_path):
    bad = Path(shutil.copytree(folder, tmp_path / "bad"))
    cut = bad / "val" / "dog" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    lost = bad / "val" / "dog" / "1.jpg"
    with pytest.raises(DamagedImage, match=r"val/dog/2\.jpg is damaged"):
        pack(bad, str(tmp_path / "to"), PackOptions())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]
    lost.unlink()
    lost.symlink_to("nothing.jpg")
    for form in ("jpeg", "raw"):
        summary = pack(bad, str(tmp_path / form), PackOptions(form=form, skip=True))
        assert len(summary.damaged) == 2
        val = open_packed(str(tmp_path / form), tmp_path).val
        with pytest.raises(DamagedImage, match=r"val/dog/2\.jpg in .* is damaged"):
            val.image(6)
        assert val.name(6) == "val/dog/2.jpg"
        with pytest.raises(DamagedImage, match=r"val/dog/1\.jpg in .* is damaged"):
            val.image(5)


def test_what_lies_at_the_place_is_refused_and_a_killed_packing_begins_anew(folder, tmp_path):
    to = tmp_path / "to"
    (tmp_path / "to.partial" / "train").mkdir(parents=True)
    (tmp_path / "to.partial" / "train" / "shard.00000.mds").write_bytes(b"half")
    pack(folder, str(to), PackOptions())
    assert not (tmp_path / "to.partial").exists() and is_packed(str(to))
    with pytest.raises(FileExistsError, match="is there already"):
        pack(folder, str(to), PackOptions())


def test_a_shard_that_was_cut_off_is_named(packed, tmp_path):
    copy = Path(shutil.copytree(packed, tmp_path / "copy"))
    shard = copy / "train" / "shard.00000.mds"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(OSError, match=r"shard\.00000\.mds is damaged"):
        open_packed(str(copy), tmp_path).train.image(0)


@pytest.mark.parametrize("name", ["../../outside.mds", "/etc/shard.00000.mds", "a b"])
def test_a_shard_may_not_lie_elsewhere(packed, tmp_path, name):
    found = json.loads((packed / CONTENTS_FILE).read_text())
    found["sets"]["train"]["shards"][0]["raw_data"]["basename"] = name
    (tmp_path / CONTENTS_FILE).write_text(json.dumps(found))
    with pytest.raises(ValueError, match="improper name"):
        open_packed(str(tmp_path), tmp_path)


def test_a_pickle_in_shards_is_refused(packed, tmp_path):
    found = json.loads((packed / CONTENTS_FILE).read_text())
    shard = found["sets"]["train"]["shards"][0]
    shard["column_encodings"] = ["pkl" for _ in shard["column_encodings"]]
    (tmp_path / CONTENTS_FILE).write_text(json.dumps(found))
    with pytest.raises(ValueError, match="unsafe"):
        open_packed(str(tmp_path), tmp_path)


def batches(
    data, n: int, step: int = 0, workers: int = 0, world: World = SINGLE_PROCESS
) -> torch.Tensor:
    """The next batches (n x B, 3, 24, 24) of this process."""
    place = LoaderOptions(torch.device("cpu"), workers, world)
    feed = file_batches(data.train, MEAN, HOW, place, 2, step)
    return torch.cat([next(feed)[0] for _ in range(n)])


def test_folder_shards_and_store_give_the_same_batches(store, folder, packed, tmp_path):
    pack(folder, "s3://pictures/same", PackOptions(shorter=480))
    far = open_packed("s3://pictures/same", tmp_path)
    pack(folder, str(tmp_path / "near"), PackOptions(form="raw"))
    near, files = open_packed(str(tmp_path / "near"), tmp_path), open_folder(folder, tmp_path)
    expected = batches(files, 5)
    assert torch.equal(batches(near, 5), expected)
    # Two pictures are encoded anew; of the others every bit is equal.
    apart = (batches(far, 5, workers=2) - expected).abs().amax(dim=(1, 2, 3))
    assert (apart == 0).sum() >= 24 and apart.max() < 0.2


def test_reading_goes_on_anywhere_on_any_number_of_processes(store, folder, tmp_path):
    pack(folder, "s3://pictures/restart", PackOptions(form="raw"))
    whole = batches(open_packed("s3://pictures/restart", tmp_path / "a"), 6).unflatten(0, (6, 6))
    for size in (2, 3):
        data = open_packed("s3://pictures/restart", tmp_path / f"b{size}")
        parts = [batches(data, 2, step=4, world=World(rank, size)) for rank in range(size)]
        parts = [part.unflatten(0, (2, -1)) for part in parts]
        assert torch.equal(torch.cat(parts, dim=1), whole[4:])


def all_pixels(where: str, root: Path, answers) -> None:
    data = open_packed(where, root)
    sums = [int(as_pixels(data.train.image(i)).pixels.sum()) for i in range(len(data.train))]
    answers.put(sums)


def test_processes_that_share_a_cache_fetch_each_shard_once(store, folder, tmp_path, monkeypatch):
    pack(folder, "s3://pictures/shared", PackOptions())
    fetched, plain = tmp_path / "fetched", packed_.download_object

    def noted(remote: str, file: Path) -> None:
        with fetched.open("a") as lines:
            lines.write(f"{Path(remote).name}\n")
        plain(remote, file)

    monkeypatch.setattr(packed_, "download_object", noted)  # the processes are forked with it
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    where = ("s3://pictures/shared", tmp_path, answers)
    workers = [context.Process(target=all_pixels, args=where) for _ in range(4)]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=60) for _ in workers]
    files = open_folder(folder, tmp_path / "files").train
    assert len({tuple(each) for each in found}) == 1 and len(found[0]) == len(files)
    assert sorted(fetched.read_text().split()) == [CONTENTS_FILE] * 4 + ["shard.00000.mds"]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_a_store_lacks_or_spoils_is_named(store, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"s3://pictures/none/packed\.json"):
        open_packed("s3://pictures/none", tmp_path)
    with pytest.raises(OSError, match=r"s3://nobucket/x/train cannot be written"):
        pack(folder, "s3://nobucket/x", PackOptions())
    pack(folder, "s3://pictures/spoilt", PackOptions())
    with pytest.raises(FileExistsError, match="holds packed data already"):
        pack(folder, "s3://pictures/spoilt", PackOptions())
    key = "spoilt/train/shard.00000.mds"
    raw = store.get_object(Bucket="pictures", Key=key)["Body"].read()
    store.put_object(Bucket="pictures", Key=key, Body=raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(OSError, match=r"shard\.00000\.mds is damaged: it is not what was packed"):
        open_packed("s3://pictures/spoilt", tmp_path).train.image(0)


def test_a_network_is_trained_and_judged_from_a_store(store, command, folder, tmp_path):
    near = tmp_path / "near"
    for to in ("s3://pictures/trained", near):
        answer = command("data", "pack", folder, to, "--as", "raw", "--json")
        assert answer.status == 0 and answer.json["pictures"] == 30, answer.err
    words = (
        "--set",
        "batch=4",
        "--set",
        "norm_group=4",
        "--set",
        "size=64",
        "--set",
        "block=8",
        "--set",
        "mean=channel",
    )
    ends = []
    for data in ("s3://pictures/trained", near, folder):
        run = tmp_path / f"run{len(ends)}"
        answer = command(
            "train", "resnet18", "--data", data, "--steps", 2, *words, "--set", "true_statistics=0",
            "--threads", 1, "--precision", "float32", "--workers", 1, "--root", tmp_path,
            "--out", run, "--json",
        )  # fmt: skip
        assert answer.status == 0, answer.err
        ends.append(answer.json)
    assert len({end["weights_sha256"] for end in ends}) == 1
    assert [end["seen"] for end in ends] == [8, 8, 8]
