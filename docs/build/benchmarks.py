"""Tables of what benchmarks/ and the endurance test measured, ours beside others."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from residual.reproduction.results import (
    Result,
    Spread,
    grouped,
    markdown,
    network_of,
    of_network,
    read_results,
)
from residual.reproduction.tables import title

Rows = list[list[str]]
SIDES = ("hardware", "what", "side", "speed and peak memory", "median ratio")
USUAL_LOOP = (
    "The usual loop is plain PyTorch: torchvision's transforms, a `DataLoader` with 4 workers, the "
    "same network and recipe (`benchmarks/usual_loop.py`). A ratio above 1: ours is faster."
)
PRECISIONS = (
    "Networks trained in float32 and in bf16 from the same seeds, in turn in one run. The ratio is "
    "the speed in bf16 to that in float32 (`benchmarks/cifar_errors.py --precisions`)."
)
SHARED = (
    "The speed of a training beside other work, as a share of its speed alone. Ours limits the "
    "busy-waiting of idle OpenMP threads; `ours, spinning` does not; `usual` is the usual loop."
)
FITTING = (
    "Each baseline is trained on a few images until all of them are classified correctly: a test "
    "that the network can learn. The initialization is its own, its own with biases of 1 in the "
    "last layer (`raised`), or that of He et al. (`he`); the first that succeeds is shown."
)
EIGHT_BITS = (
    "The error, or a detector's average precision, of the exported model in float32 and in eight "
    "bits, on the validation set or on training pictures that did not calibrate "
    "(`residual export --int8`, `benchmarks/eight_bits.py`)."
)
SERVING = (
    "`residual serve` with clients on the same machine that send JPEGs over kept connections, "
    "beside ONNX Runtime alone on preprocessed images in batches of 16 (`benchmarks/serving.py`)."
)
FULL_DISK = "full disk"  # the one interruption that kills no process


def sections(results: Path) -> Iterator[tuple[str, str]]:
    """The sections of docs/results.md: title and text."""
    folder = results / "benchmarks"
    yield "Compared with the usual loop", f"{USUAL_LOOP}\n\n{errors(results)}\n\n{speed(folder)}"
    yield "Training in bf16", f"{PRECISIONS}\n\n{precisions(folder)}"
    yield "Training on a shared machine", f"{SHARED}\n\n{shared_machine(folder)}"
    yield "Interrupted jobs", interrupted_jobs(folder)
    yield "Baselines fit a few pictures", f"{FITTING}\n\n{fitting(folder)}"
    yield "Photographs, compared with other libraries", photographs(folder)
    yield "Networks in eight bits", f"{EIGHT_BITS}\n\n{eight_bits(folder)}"
    yield "A server under load", f"{SERVING}\n\n{serving(folder)}"
    yield "Detectors, compared with torchvision's", detectors(folder)


def table(header: Sequence[str], rows: Rows) -> str:
    return markdown(header, rows) if rows else "Not run."


def speed_and_memory(
    side: dict[str, Any], unit: str = "images/s", digits: int = 0, key: str = "images_per_second"
) -> str:
    return f"{side[key]:,.{digits}f} {unit}, {side['peak_memory_bytes'] / 2**30:.2f} GiB"


def errors(results: Path) -> str:
    """Test errors of ours and of the usual loop with equal recipes, for each budget."""
    usual = grouped(read_results(results / "benchmarks", "usual_error_top1"), title)
    ours, rows = grouped(read_results(results), title), []
    for name, theirs in usual.items():
        for network in sorted(set(map(network_of, theirs))):
            ours_of = of_network(ours.get(name, []), network)
            pair = (
                Spread([result["error_top1"] for result in ours_of]),
                Spread([result["usual_error_top1"] for result in of_network(theirs, network)]),
            )
            rows.append([name, network, *map(str, pair), agreement(*pair)])
    header = ["data and budget", "network", "ours, error %", "usual loop, error %", "means"]
    return table(header, rows)


def agreement(ours: Spread, usual: Spread) -> str:
    """Whether the means are within one deviation, the larger of the two."""
    if min(len(ours.values), len(usual.values)) < 2:
        return ""
    apart, deviation = abs(ours.mean - usual.mean), max(ours.deviation, usual.deviation)
    where = "within" if apart <= deviation else "not within"
    return f"{apart:.2f} apart, {where} one deviation"


def precisions(folder: Path) -> str:
    """Errors and speeds of ours in float32 and in bf16."""
    rows = []
    for result in read_results(folder, "precisions"):
        sides = [result["precisions"][name] for name in ("float32", "bf16")]
        spreads = [Spread(side["error_top1"]) for side in sides]
        speeds = [f"{median(side['images_per_second']):,.0f} images/s" for side in sides]
        row = [title(result), network_of(result), *map(str, spreads), agreement(*spreads)]
        rows.append([*row, result["hardware"], *speeds, f"{result['ratio']:.2f}"])
    header = ["data and budget", "network", "float32, error %", "bf16, error %", "means"]
    return table([*header, "hardware", "float32", "bf16", "median ratio"], rows)


def speed(folder: Path) -> str:
    """Training speed of small networks, both sides measured in turn in one run."""
    rows = [
        [result["hardware"], result["precision"], network]
        + [speed_and_memory(pair[side]) for side in ("ours", "usual")]
        + [f"{pair['ratio']:.2f}"]
        for result in read_results(folder, "networks")
        for network, pair in result["networks"].items()
    ]
    return table(["hardware", "precision", "network", "ours", "usual loop", "median ratio"], rows)


def shared_machine(folder: Path) -> str:
    """The share of its speed that a training keeps beside other work on the machine."""
    rows = [
        [
            *(result["hardware"], result["network"], name),
            f"{side['images_per_second']['alone']:,.0f} images/s",
            *(f"{share:.2f}" for share in side["kept"].values()),
        ]
        for result in read_results(folder, "sides")
        for name, side in result["sides"].items()
    ]
    kinds = ("share beside a busy loop", "share beside another training")
    return table(["hardware", "network", "side", "alone", *kinds], rows)


def interrupted_jobs(folder: Path) -> str:
    """For each job and interruption, how many were made and how many ended equal."""
    stored = read_results(folder, "interruptions")
    counts = [row for result in stored for row in result["interruptions"]]
    rows = [[n["job"], n["interruption"], f"{n['equal']} of {n['made']}"] for n in counts]
    return endurance_sentence(counts) + table(["job", "interruption", "equal ends"], rows)


def endurance_sentence(rows: Sequence[Result]) -> str:
    """The interruptions in total; empty if they were not measured."""
    kills = [row for row in rows if row["interruption"] != FULL_DISK]
    if not kills:
        return ""
    jobs, equal, all_jobs, all_equal = (
        sum(row[key] for row in some) for some in (kills, rows) for key in ("made", "equal")
    )
    return (
        f"{jobs} jobs (training, detection, packing and reports, on one process and on two) were "
        "killed by `kill -9` at random moments and resumed, some after the clock was set back; "
        f"{equal} ended exactly like uninterrupted ones. So did {all_equal - equal} of "
        f"{all_jobs - jobs} on a full disk (`make endurance`).\n\n"
    )


def fitting(folder: Path) -> str:
    """The steps after which a baseline classified all of a few pictures correctly."""
    rows = []
    for result in read_results(folder, "tried"):
        pictures = f"{result['pictures']} of {result['data']['name']}"
        for network, attempts in result["tried"].items():
            last = attempts[-1]
            end = "diverged" if last["wrong"] is None else f"{last['wrong']} wrong"
            rows.append(
                [
                    *(network, f"{pictures}, {last['size']} px"),
                    *(f"{result['hardware']}, {result['precision']}", f"{len(attempts)}"),
                    f"{last['start']} start, seed {last['seed']}, rate {last['lr']:g}",
                    f"{last['steps']:,}" if last["wrong"] == 0 else f"not, {end}",
                ]
            )
    header = [
        "network",
        "pictures",
        "hardware",
        "trainings",
        "last training",
        "steps to zero errors",
    ]
    return table(header, rows)


def photographs(folder: Path) -> str:
    """Reading, training and prediction with photographs, and how the cost grows."""
    growth = sorted((folder.parent / "figures").glob("growth-*.png"))
    pictures = [f"![cost by size](../results/figures/{path.name})" for path in growth]
    reading, training, prediction, int8 = Rows(), Rows(), Rows(), Rows()
    for result in read_results(folder, "reading"):
        subject = f"{result['pictures']:,} photographs, {result['workers']} workers"
        unit = "images/s per core", 0, "images_per_cpu_second"
        reading += sides(result, subject, result["reading"], *unit, core="_per_cpu_second")
    for result in read_results(folder, "training"):
        if "batch" in result:  # else it is of detectors
            subject = f"{result['batch']} of {result['size']} px, {result['precision']}"
            training += sides(result, f"{result['network']}, {subject}", result["training"])
    for result in read_results(folder, "rows"):
        for row in result["rows"]:
            subject = f"{row['network']}, batch {row['batch']}"
            for rows, key in ((prediction, "ours_against"), (int8, "int8_against")):
                ratios = row.get(key, {})  # older results have no int8
                measured = {name: row["sides"][name] | {"ratio": ratios[name]} for name in ratios}
                rows += sides(result, subject, measured)
    parts = [
        "Reading photographs into normalised batches, against `ImageFolder`:",
        table(SIDES, reading),
        "Training on images in memory; the ratio is to the faster of the other sides:",
        table(SIDES, training),
        "Prediction; the ratio is our speed to the other's:",
        table(SIDES, prediction),
        *(
            ["In eight bits; the ratio is its speed to the other's:", table(SIDES, int8)]
            if int8
            else []
        ),
        "Cost of training and fine-tuning by size:",
        *(pictures or ["Not run."]),
    ]
    return "\n\n".join(parts)


def sides(
    result: Result, subject: str, measured: dict[str, Any], *unit: Any, core: str = ""
) -> Rows:
    """A row for each side of a comparison: its speed, memory and disk space, and the ratio."""
    rows = []
    for name, side in measured.items():
        size = result.get("bytes_on_disk", {}).get(name)
        cell = speed_and_memory(side, *unit) + (f", {size / 1e6:,.1f} MB on disk" if size else "")
        rows.append([result["hardware"], subject, name, cell, f"{side['ratio' + core]:.2f}"])
    return rows


def eight_bits(folder: Path) -> str:
    """Errors, speeds and sizes of exported networks in float32 and in eight bits."""
    rows = []
    for result in read_results(folder, "eight_bits"):
        for row in result["eight_bits"]:
            compared = row["evaluation"]
            subject = f"{compared['pictures']:,} of {compared['data']} ({compared['split']})"
            measure = "ap" if "ap_int8" in row else "error"
            cells = [
                f"{row[f'{measure}_{name}']:.2f}, "
                f"{row[f'images_per_second_{name}']:,.0f} images/s, "
                f"{row[f'bytes_{name}'] / 1e6:,.1f} MB"
                for name in ("float32", "int8")
            ]
            ratio = row["images_per_second_int8"] / row["images_per_second_float32"]
            rows.append(
                [result["hardware"], row["network"], subject, measure, *cells, f"{ratio:.2f}"]
            )
    header = ["hardware", "network", "pictures", "measure, %", "float32", "eight bits", "speed"]
    return table(header, rows)


def serving(folder: Path) -> str:
    """The throughput, latency and memory of a server."""
    rows = []
    for result in read_results(folder, "serving"):
        served, alone = (result["serving"][name] for name in ("served", "onnxruntime"))
        first, last = (result["memory_of_rounds"][i] / 2**20 for i in (0, -1))
        rows.append(
            [
                *(result["hardware"], result["network"], str(result["clients"])),
                *(f"{side['images_per_second']:,.0f} images/s" for side in (served, alone)),
                *(
                    f"{result['ratio']:.2f}",
                    f"{served['p50_ms']:,.0f} / {served['p99_ms']:,.0f} ms",
                ),
                *(
                    f"{served['busy']:,.0f} / {served['failed']:,.0f}",
                    f"{first:,.0f} to {last:,.0f}",
                ),
            ]
        )
    header = ["hardware", "network", "clients", "served", "ONNX Runtime", "median ratio"]
    return table([*header, "p50 / p99", "refused / lost", "memory, MiB"], rows)


def detectors(folder: Path) -> str:
    """Training and prediction of detectors beside torchvision's, and normalizations."""
    speeds = Rows()
    for result in read_results(folder, "training"):
        for work in ("training", "prediction") if result["benchmark"] == "detection" else ():
            height, width = result["size"]
            subject = f"{result['network']}, {work}, {height}x{width}, {result['precision']}"
            speeds += sides(result, subject, result.get(work, {}), "pictures/s", 2)
    norms = [
        [name, result["data"]["name"], f"{ap['AP50-area']['mean']:.2f}"]
        for result in read_results(folder, "norms")
        for name, ap in result["norms"].items()
    ]
    parts = ["Faster R-CNN with one picture at a time, and torchvision's:", table(SIDES, speeds)]
    if norms:
        parts += ["Training from scratch, by normalization:"]
        parts += [markdown(["normalization", "data", "AP50 %, by area"], norms)]
    return "\n\n".join(parts)
