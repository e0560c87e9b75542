"""The commands `networks` and `describe`: networks, their layers and their cost."""

import sys
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from residual.cli.options import Json, usage_errors
from residual.reproduction import paper
from residual.storage import json_text

if TYPE_CHECKING:
    from residual.models.complexity import Layer, LayerPair
    from residual.models.resnet import ModelSpec

NETWORK = typer.Argument(
    help="The network's name, e.g. resnet20, plain56, resnet50-v1.5; or public weights."
)


def networks(as_json: Json = False) -> None:
    """List all networks with parameters and multiply-adds.

    Example: residual networks --json
    """
    from residual.models.registry import NETWORKS

    entries = [summary(name) for name in NETWORKS]
    if as_json:
        print(json_text(entries))
        return
    print_table(
        ["name", "input", "classes", "parameters", "multiply-adds", "the paper prints"],
        [
            [
                *(entry["name"], f"{entry['input_size']}x{entry['input_size']}"),
                *(str(entry["classes"]), f"{entry['parameters']:,}", f"{entry['multiply_adds']:,}"),
                paper_text(entry["paper"]),
            ]
            for entry in entries
        ],
    )


def describe(
    network: Annotated[str, NETWORK],
    compare: Annotated[
        str | None, typer.Option(help="Compare with another library: torchvision.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the layers of a network, or compare two libraries.

    Example: residual describe resnet50 --compare torchvision
    """
    from residual.models.complexity import cost, layers
    from residual.models.registry import BASELINES, build_meta, compare_layers, source
    from residual.weights.published import network_of

    network, card = network_of(network)
    spec = spec_named(network)
    if compare is not None:
        with usage_errors():
            pairs = compare_layers(network, compare)
        show_difference(spec.name, compare, pairs, as_json)
        return
    net = build_meta(spec.name)
    parameters, multiply_adds = cost(net, spec.input_size)
    rows = layers(net, spec.input_size)
    comments = choices(source(spec.name)) if spec.name in BASELINES else []
    in_training = sum(parameter.numel() for parameter in net.parameters())
    if as_json:
        values = {"parameters_in_training": in_training, "readings": comments}
        values |= {"card": card} if card else {}
        print(json_text(summary(spec.name) | values | {"layers": list(map(asdict, rows))}))
        return
    print_table(
        ["name", "kind", "output", "parameters", "multiply-adds"], [cells(row) for row in rows]
    )
    heads = f" ({in_training:,} in training)" if in_training > parameters else ""
    print(
        f"{spec.name} at {spec.input_size}x{spec.input_size}, {spec.classes} classes: "
        f"{parameters:,} parameters{heads}, {multiply_adds:,} multiply-adds"
    )
    for comment in (*comments, *(f"{key}: {value}" for key, value in card.items())):
        print(comment)


def choices(source: str) -> list[str]:
    """The comments of a file that begin with `Choice:` or `Deviation:`, their lines joined."""
    comments: list[list[str]] = []
    inside = False
    for line in map(str.strip, source.splitlines()):
        begins = line.startswith(("# Choice: ", "# Deviation: "))
        inside = begins or (inside and line.startswith("#"))
        if begins:
            comments.append([])
        if inside:
            comments[-1].append(line.removeprefix("#").strip())
    return [" ".join(lines) for lines in comments]


def spec_named(network: str) -> "ModelSpec":
    """The specification of a network. An unknown name is a usage error."""
    from residual.models.registry import model_spec

    with usage_errors():
        return model_spec(network)


def summary(network: str) -> dict[str, Any]:
    """A network's entry in `networks --json`."""
    from residual.models.complexity import cost
    from residual.models.registry import build_meta, model_spec

    spec = model_spec(network)
    parameters, multiply_adds = cost(build_meta(spec.name), spec.input_size)
    return {
        "name": spec.name,
        "family": spec.family,
        "input_size": spec.input_size,
        "classes": spec.classes,
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "paper": paper_rows().get(spec.name),
    }


@cache
def paper_rows() -> dict[str, dict[str, Any]]:
    """The paper's numbers for each network by name, from the first table that has it."""
    from residual.reproduction.tables import MODELS, TABLE_6_BASELINES

    rows: dict[str, dict[str, Any]] = {}
    for depth, (plain, residual) in paper.TABLE_2.items():
        rows[f"plain{depth}"] = {"table": "Table 2", "error": plain}
        rows[f"resnet{depth}-A"] = {"table": "Table 2", "error": residual}
    for depth, flops in paper.TABLE_1.items():
        rows[f"resnet{depth}"] = {"table": "Table 1", "multiply_adds": flops}
    for depth, (error, millions) in paper.TABLE_6.items():
        sizes = {"error": error, "parameters_millions": millions}
        rows[f"resnet{depth}"] = {"table": "Table 6", **sizes}
    rows["resnet34-C"] = {"table": "Table 3", "error": paper.TABLE_3["ResNet-34 C"][0]}
    for model, (_, size, error) in paper.TABLE_6_BASELINES.items():
        sizes = {"error": error} if size is None else {"error": error, "parameters_millions": size}
        rows.setdefault(TABLE_6_BASELINES[model], {"table": "Table 6", **sizes})
    for table, results in (("Table 3", paper.TABLE_3), ("Table 4", paper.TABLE_4)):
        for model, (top_1, top_5) in results.items():
            first = {} if top_1 is None else {"error": top_1}
            row = {"table": table, **first, "error_top5": top_5}
            rows.setdefault(MODELS.get(model, ""), row)
    return rows


def paper_text(row: dict[str, Any] | None) -> str:
    """The paper's numbers for a network, as a cell."""
    if row is None:
        return ""
    parts = [
        f"{row['multiply_adds'] / 1e9:g}e9 multiply-adds" if "multiply_adds" in row else "",
        f"error {row['error']:.2f} %" if "error" in row else "",
        f"top-5 error {row['error_top5']:.2f} %" if "error_top5" in row else "",
        f"{row['parameters_millions']:g}M parameters" if "parameters_millions" in row else "",
    ]
    return f"{row['table']}: " + ", ".join(part for part in parts if part)


def cells(layer: "Layer") -> list[str]:
    output = "x".join(map(str, layer.output))
    return [layer.name, layer.kind, output, f"{layer.parameters:,}", f"{layer.multiply_adds:,}"]


def pair_cells(pair: "LayerPair") -> list[str]:
    """Both names and the facts: one value if both are equal, else the other library's | ours."""
    other, layer = cells(pair.other), cells(pair.layer)
    facts = zip(other[1:], layer[1:], strict=True)
    mark = "*" if pair.differs else ""
    return [mark, other[0], layer[0], *(a if a == b else f"{a} | {b}" for a, b in facts)]


def show_difference(network: str, library: str, pairs: "list[LayerPair]", as_json: bool) -> None:
    """Print another library's layers beside ours, and a mark where they differ."""
    if as_json:
        rows = [
            {"theirs": asdict(pair.other), "ours": asdict(pair.layer), "differs": pair.differs}
            for pair in pairs
        ]
        print(json_text({"network": network, "library": library, "layers": rows}))
        return
    heads = ["kind", "output", "parameters", "multiply-adds"]
    print_table(
        ["", f"in {library}", "here", *(f"{head} (theirs | ours)" for head in heads)],
        [pair_cells(pair) for pair in pairs],
    )
    print(
        f"{sum(pair.differs for pair in pairs)} of {len(pairs)} layers differ (*): "
        f"{sum(pair.other.multiply_adds for pair in pairs):,} multiply-adds in {library}, "
        f"{sum(pair.layer.multiply_adds for pair in pairs):,} in {network}"
    )


def print_table(heads: list[str], rows: list[list[str]]) -> None:
    """A table that is never cut: as wide as the terminal, or as it needs to be elsewhere."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 300, markup=False, highlight=False).print(table)
