"""Lists the tables and figures of the paper with their experiments, and draws their pages."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from residual.reproduction import detection_tables as boxes
from residual.reproduction import figures, paper, tables
from residual.reproduction.experiments import (
    AP,
    ENSEMBLE,
    ERROR,
    MULTISCALE,
    PUBLISHED_PROTOCOLS,
    RESPONSES,
    Experiment,
    Request,
    classifiers,
    measure_of,
    paper_steps,
    slug,
    with_depths,
)
from residual.reproduction.results import Result, grouped, network_of, read_results
from residual.tasks.classification.recipe import from_json

NOT_COVERED = "localisation and ImageNet detection (Tables 12 to 14)"
SMALL, PHOTOGRAPHS, BOXES = "small images", "photographs", "boxes"


@dataclass(frozen=True)
class CatalogEntry:
    """A table or figure with its experiments and the functions that present its results."""

    table: Callable[[Sequence[Result]], str]
    experiments: Callable[[Request], list[Experiment]]
    shows: Callable[[Result], bool] = lambda _: True  # of the results with one of the measures
    figure: Callable[[Sequence[Result], Path], list[Path]] | None = None
    measures: tuple[str, ...] = (ERROR,)
    data: str = SMALL

    def title(self, result: Result) -> str:
        """Results with one title are shown together."""
        return boxes.title(result) if self.data == BOXES else tables.title(result)

    def steps(self, result: Result) -> int:
        """The training length of a result, as in the option `--steps`."""
        if self.data == BOXES:
            return int(result["recipe"]["steps"])
        return paper_steps(from_json(result["recipe"]), result["data"]["name"])


@dataclass(frozen=True)
class Page:
    """A table or figure for one data set, budget and recipe."""

    title: str
    table: str
    figures: list[Path]  # PNG first; empty if nothing is drawn
    results: list[Result]


def pages(
    name: str,
    results: Path,
    folder: Path,
    steps: int | None = None,
    fingerprints: Collection[str] = (),
) -> Iterator[Page]:
    """Draw a table or figure from result files, perhaps only from those of some steps and data. Its
    pictures are written to `folder`."""
    entry = CATALOG[name]

    def chosen(result: Result) -> bool:
        return (
            entry.shows(result)
            and (not fingerprints or result["data"]["fingerprint"] in fingerprints)
            and (steps is None or entry.steps(result) == steps)
        )

    stored = [r for measure in entry.measures for r in read_results(results, measure)]
    for title, group in grouped(filter(chosen, stored), entry.title).items():
        paths: list[Path] = []
        if entry.figure:
            folder.mkdir(parents=True, exist_ok=True)
            paths = entry.figure(group, folder / f"{name}-{slug(title)}")
        yield Page(title, entry.table(group), paths, group)


def on_imagenet(
    table: Callable[[Sequence[Result]], str],
    networks: Sequence[str],
    measure: str,
    figure: Callable[[Sequence[Result], Path], list[Path]] | None = None,
) -> CatalogEntry:
    """The entry of some ImageNet networks. A figure needs their curves."""

    def experiments(request: Request) -> list[Experiment]:
        chosen = with_depths(networks, request.depths)
        return classifiers(chosen, request, measure, curve=figure is not None)

    def shows(result: Result) -> bool:
        network = network_of(result)
        return (
            network in networks
            and measure_of(measure, network) in result
            and (figure is None or figures.has_curve(result))
        )

    published = PUBLISHED_PROTOCOLS.values() if measure == MULTISCALE else ()
    measures = tuple(dict.fromkeys([measure, *published]))
    return CatalogEntry(table, experiments, shows, figure, measures, PHOTOGRAPHS)


on_boxes = partial(CatalogEntry, measures=(AP,), data=BOXES)


CATALOG = {
    "table1": CatalogEntry(tables.table1, lambda _: [], measures=()),
    "table2": on_imagenet(tables.table2, tables.TABLE_2, "10crop"),
    "table3": on_imagenet(tables.table3, tables.TABLE_3, "10crop"),
    "table4": on_imagenet(tables.table4, tables.TABLE_4, MULTISCALE),
    "table5": CatalogEntry(tables.table5, tables.ensemble, measures=(ENSEMBLE,), data=PHOTOGRAPHS),
    "table6": CatalogEntry(tables.table6, tables.table6_experiments, tables.in_table6),
    "table7": on_boxes(boxes.table7, boxes.table7_experiments, boxes.in_table7),
    "table8": on_boxes(boxes.table8, boxes.table8_experiments, boxes.in_table8),
    "table9": on_boxes(boxes.table9, boxes.table9_experiments, boxes.in_table9),
    "table10": on_boxes(
        boxes.table10, partial(boxes.by_class_experiments, "voc07+12"), boxes.in_table10
    ),
    "table11": on_boxes(
        boxes.table11, partial(boxes.by_class_experiments, "voc07++12"), boxes.in_table11
    ),
    "figure1": CatalogEntry(
        figures.figure1_table, figures.figure1_experiments, figures.in_figure1, figures.figure1
    ),
    "figure4": on_imagenet(
        figures.figure4_table, tuple(paper.FIGURE_4), ERROR, figures.plain_and_residual
    ),
    "figure6": CatalogEntry(
        figures.figure6_table, figures.figure6_experiments, figures.in_figure6, figures.figure6
    ),
    "figure7": CatalogEntry(
        figures.figure7_table,
        figures.figure7_experiments,
        figure=figures.figure7,
        measures=(RESPONSES,),
    ),
    "demo": CatalogEntry(
        figures.demo_table, figures.demo_experiments, figures.in_demo, figures.figure6
    ),
}
