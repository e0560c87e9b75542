"""Ours beside what others offer: errors and speed, from the files that benchmarks/ leaves."""

from pathlib import Path
from typing import Any

from residual.reproduction.experiments import budgets, by_network, kept
from residual.reproduction.spread import Spread, markdown


def errors(folder: Path) -> str:
    """Test errors of ours and of the usual loop, with equal recipes, for each budget."""
    usual = kept(folder / "benchmarks", "usual_error_top1")
    theirs, ours = budgets(usual), budgets(kept(folder))
    rows = []
    for title, some in theirs.items():
        for network in sorted({result["recipe"]["network"] for result in some}):
            spreads = [
                Spread([each[key] for each in by_network(of)(network)])
                for key, of in (("error_top1", ours.get(title, [])), ("usual_error_top1", some))
            ]
            rows.append([title, network, *(each.in_words() for each in spreads), agree(*spreads)])
    header = ["data and budget", "network", "ours, error %", "usual loop, error %", "means"]
    return markdown(header, rows) if rows else "Not run."


def agree(ours: Spread, usual: Spread) -> str:
    """Whether the means are within one deviation, the larger of the two."""
    if min(len(ours.values), len(usual.values)) < 2:
        return ""
    apart, deviation = abs(ours.mean - usual.mean), max(ours.deviation, usual.deviation)
    where = "within" if apart <= deviation else "not within"
    return f"{apart:.2f} apart, {where} one deviation"


def speed(folder: Path) -> str:
    """Training speed as a ratio, both sides measured in turn in one run."""
    rows = []
    for found in kept(folder / "benchmarks", "networks"):
        for network, each in found["networks"].items():
            rows.append(
                [
                    found["hardware"],
                    found["precision"],
                    network,
                    *(side(each[name]) for name in ("ours", "usual")),
                    f"{each['ratio']:.2f}",
                ]
            )
    header = ["hardware", "precision", "network", "ours", "usual loop", "median ratio"]
    return markdown(header, rows) if rows else "Not run."


def shared(folder: Path) -> str:
    """The share of its speed that a training keeps beside other work on the machine."""
    rows = [
        [
            found["hardware"],
            found["network"],
            name,
            f"{each['images_per_second']['alone']:,.0f} images/s",
            *(f"{share:.2f}" for share in each["kept"].values()),
        ]
        for found in kept(folder / "benchmarks", "sides")
        for name, each in found["sides"].items()
    ]
    kinds = ("beside a busy loop", "beside another training")
    header = ["hardware", "network", "side", "alone", *(f"share kept {kind}" for kind in kinds)]
    return markdown(header, rows) if rows else "Not run."


FULL_DISK = "full disk"  # an interruption that kills nothing


def endurance(folder: Path) -> str:
    """Jobs that were interrupted, and how many of them ended as those that were not."""
    rows = [
        [row["job"], row["interruption"], f"{row['equal']} of {row['made']}"]
        for row in interruptions(folder)
    ]
    return markdown(["job", "interruption", "equal ends"], rows) if rows else "Not run."


def endurance_in_words(folder: Path) -> str:
    """The same in a sentence, for the README; nothing where it was not measured."""
    rows = interruptions(folder)
    kills = [row for row in rows if row["interruption"] != FULL_DISK]
    if not kills:
        return ""
    made, equal, all_made, all_equal = (
        sum(row[key] for row in some) for some in (kills, rows) for key in ("made", "equal")
    )
    return (
        f"{made} jobs (training, detection, packing and reports, on one process and on two) were "
        "killed by `kill -9` at random moments and continued, some after the clock was set back; "
        f"{equal} ended exactly as uninterrupted ones. Of {all_made - made} that met a full disk, "
        f"{all_equal - equal} did (`make endurance`).\n\n"
    )


def interruptions(folder: Path) -> list[dict[str, Any]]:
    """What tests/endurance.py counted: for each job and kind how many were made and ended equal."""
    every = kept(folder / "benchmarks", "interruptions")
    return [row for found in every for row in found["interruptions"]]


def gib(measured: dict[str, Any]) -> str:
    return f"{measured['peak_memory_bytes'] / 2**30:.2f} GiB"


def side(measured: dict[str, Any]) -> str:
    speed, memory = measured["images_per_second"], measured["peak_memory_bytes"]
    return f"{speed:,.0f} images/s, {memory / 2**30:.2f} GiB"


def fitting(folder: Path) -> str:
    """After how many steps a compared network recognised all of a few pictures, and at which of the
    starts and rates that were tried."""
    rows = []
    for found in kept(folder / "benchmarks", "tried"):
        for network, attempts in found["tried"].items():
            last = attempts[-1]
            gone = "diverged" if last["wrong"] is None else f"{last['wrong']} wrong"
            after = f"{last['steps']:,}" if last["wrong"] == 0 else f"not, {gone}"
            how = f"{last['start']} start, seed {last['seed']}, rate {last['lr']:g}"
            what = f"{found['pictures']} of {found['data']['name']}, {last['size']} px"
            where = f"{found['hardware']}, {found['precision']}"
            rows.append([network, what, where, f"{len(attempts)}", how, after])
    header = ["network", "pictures", "hardware", "trainings", "the last", "none wrong after steps"]
    return markdown(header, rows) if rows else "Not run."


def photographs(folder: Path) -> str:
    """Reading, training and prediction with photographs, each beside what others offer, and how
    the cost grows; what was not measured is named."""
    every = folder / "benchmarks"
    parts = [
        "Reading photographs to the normalised batch, against `ImageFolder`:",
        table(reading(kept(every, "reading"))),
        "Training on images in memory:",
        table(training([f for f in kept(every, "training") if "batch" in f])),
        "Prediction; the ratio is ours to the side's:",
        table(prediction(kept(every, "rows"))),
        "Training and fine-tuning as they grow:",
    ]
    grown = sorted((folder / "figures").glob("growth-*.png"))
    parts += [f"![cost as it grows](../results/figures/{path.name})" for path in grown]
    return "\n\n".join(parts if grown else [*parts, "Not run."])


def detectors(folder: Path) -> str:
    """Detectors in training and at work beside torchvision's machinery; and normalizations."""
    every = folder / "benchmarks"
    speeds = [found for found in kept(every, "training") if found["benchmark"] == "detection"]
    parts = ["Faster R-CNN, a picture at a time, against torchvision's:", table(detecting(speeds))]
    norms = kept(every, "norms")
    rows = [
        [name, found["data"]["name"], f"{ap['AP50-area']['mean']:.2f}"]
        for found in norms
        for name, ap in found["norms"].items()
    ]
    if rows:
        parts += ["From nothing, by what a detector is normalized:"]
        parts += [markdown(["normalization", "data", "AP50 %, by area"], rows)]
    return "\n\n".join(parts)


def detecting(found: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            each["hardware"],
            f"{each['network']}, {work}, {each['size'][0]}x{each['size'][1]}, {each['precision']}",
            name,
            f"{one['images_per_second']:.2f} pictures/s, {gib(one)}",
            f"{one['ratio']:.2f}",
        ]
        for each in found
        for work in ("training", "prediction")
        if work in each
        for name, one in each[work].items()
    ]


def table(rows: list[list[str]]) -> str:
    header = ["hardware", "what", "side", "speed and peak memory", "median ratio"]
    return markdown(header, rows) if rows else "Not run."


def reading(found: list[dict[str, Any]]) -> list[list[str]]:
    """Images per second of processor time: those of one core. Disk space is said, too."""
    rows = []
    for each in found:
        what = f"{each['pictures']:,} photographs, {each['workers']} workers"
        for name, one in each["reading"].items():
            size = each["bytes_on_disk"].get(name)
            words = f"{one['images_per_cpu_second']:,.0f} images/s per core"
            words += f", {one['peak_memory_bytes'] / 2**30:.2f} GiB"
            words += f", {size / 1e6:,.1f} MB on disk" if size else ""
            rows.append([each["hardware"], what, name, words, f"{one['ratio_per_cpu_second']:.2f}"])
    return rows


def training(found: list[dict[str, Any]]) -> list[list[str]]:
    """Each side against the faster of the others."""
    return [
        [
            each["hardware"],
            f"{each['network']}, {each['batch']} of {each['size']} px, {each['precision']}",
            name,
            side(one),
            f"{one['ratio']:.2f}",
        ]
        for each in found
        for name, one in each["training"].items()
    ]


def prediction(found: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            each["hardware"],
            f"{row['network']}, batch {row['batch']}",
            name,
            side(one),
            f"{row['ours_against'][name]:.2f}",
        ]
        for each in found
        for row in each["rows"]
        for name, one in row["sides"].items()
    ]
