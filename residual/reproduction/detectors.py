"""Where the runs and results of detectors lie, and what is still to be made for a table."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from residual.reproduction.detections import Detection
from residual.reproduction.experiments import Result, slug
from residual.storage import read_json, write_json
from residual.tasks.detection.recipe import Recipe, Testing, scaled
from residual.training.values import to_json


@dataclass(frozen=True)
class Made:
    """A detector that a table asks for, on some data."""

    wanted: Detection
    data: str  # its name
    fingerprint: str

    def run(self, seed: int = 0) -> str:
        """The name of a run's folder; equal trainings have equal names. Only what differs from a
        plain Recipe counts, so that a new field renames nothing."""
        recipe = self.member(seed)
        usual = to_json(Recipe(recipe.network))
        own = {key: value for key, value in to_json(recipe).items() if value != usual[key]}
        key = json.dumps([recipe.network, own, self.fingerprint], sort_keys=True)
        short = hashlib.sha256(key.encode()).hexdigest()[:8]
        words = (slug(self.data), "detector", recipe.network, f"{recipe.steps}steps")
        return "-".join([*words, f"seed{recipe.seed}", short])

    def member(self, seed: int) -> Recipe:
        """Of an ensemble, the recipe of the one so many seeds on."""
        return replace(self.wanted.recipe, seed=self.wanted.recipe.seed + seed)

    def runs(self) -> list[str]:
        """All of an ensemble's."""
        return [self.run(seed) for seed in range(self.wanted.members)]

    def file(self, results: Path) -> Path:
        """Of the result: a training's own, or what is measured on its weights in another way."""
        testing = self.wanted.testing
        words = ["refined"] * testing.refinement + ["multiscale"] * bool(testing.scales)
        words += [f"{self.wanted.members}together"] * (self.wanted.members > 1)
        return results / f"{'-'.join([self.run(), *words])}.json"

    @property
    def plain(self) -> bool:
        """Whether the training's own result is what is asked for."""
        return self.wanted.testing == Testing() and self.wanted.members == 1


def fitting(wanted: Sequence[Detection], splits: Sequence[str]) -> list[Detection]:
    """What tables ask for, on data of one's own: trained on trainval and tested on test, where the
    data has no years; and scales in proportion to the training's."""
    found: dict[tuple[object, ...], Detection] = {}
    for each in wanted:
        recipe = each.recipe
        if each.before:  # trained on other data first; see `residual detect train --weights`
            continue
        if {"trainval", "test"} <= set(splits):
            recipe = replace(recipe, train_split="trainval", test_split="test")
        testing = each.testing
        if testing.scales:
            testing = replace(testing, scales=scaled(recipe.shorter))
        key = (
            *(recipe.network, recipe.seed, recipe.context, testing, each.members),
            *(recipe.train_split, recipe.test_split),
        )
        found.setdefault(key, replace(each, recipe=recipe, testing=testing))
    return list(found.values())


def keep(run: Path, path: Path) -> Result:
    """Copy the result of a finished run to where tables are drawn from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found: Result = read_json(run / "result.json")
    if not path.exists():
        write_json(path, found)
    return found


def measured(first: Result, judgement: Result) -> Result:
    """The content of a result file: a training's, judged in another way or with others."""
    own = {k: first[k] for k in ("format", "recipe", "versions", "hardware", "setting", "finished")}
    return own | judgement
