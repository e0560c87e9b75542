"""Detection as a task of a run."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from residual.models.registry import model_spec
from residual.runs.session import RunContext, fresh
from residual.tasks.detection import faster_rcnn, loader, loop, phases
from residual.tasks.detection.datasets import DetectionData
from residual.tasks.detection.evaluate import EvalOptions, evaluate
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.losses import LOSSES
from residual.tasks.detection.recipe import DetectionRecipe, Testing
from residual.training import checkpoint
from residual.training.loop import Step, StepOptions

INITIAL = "begun.safetensors"  # weights with which two phases of alternating training begin


class Detection:
    """The training of a detector; see `runs.session.Task`."""

    losses: tuple[str, ...] = LOSSES
    curve: tuple[str, ...] = ("step", "loss", *LOSSES, "lr", "skipped")
    replacement = "another"
    ended = False

    def __init__(self, recipe: DetectionRecipe, data: DetectionData, context: RunContext) -> None:
        self.recipe, self.data, self.context = recipe, data, context
        self.classes = data.train.classes
        context.world.local_batch(recipe.batch, 1)
        net = fresh(recipe.seed, partial(faster_rcnn.build, recipe, len(self.classes)))
        self.net: faster_rcnn.FasterRCNN = context.config.prepare(net)  # type: ignore[assignment]
        self.learner = loop.start(self.net, recipe)
        self.skipped: dict[str, str] = {}
        pixel_range = model_spec(recipe.network).pixel_range
        self.preprocessing = loader.imagenet_preprocessing(recipe.shorter, pixel_range)

    def begin(self) -> None:
        """Nothing is measured."""

    def restore(self, tensors: checkpoint.Tensors, header: dict[str, Any]) -> None:
        """Restore preprocessing and skipped images."""
        self.preprocessing = checkpoint.preprocessing_of(tensors, header)
        self.skipped = header.get("skipped", {})

    def state(self) -> tuple[checkpoint.Tensors, dict[str, Any]]:
        return {}, {"sort": self.data.train.format}

    def steps(self, timed: Callable[[Iterator[Any]], Iterator[Any]]) -> Iterator[Step]:
        """Take the steps that remain, phase by phase."""
        config, world = self.context.config, self.context.world
        ready = self.preprocessing.to(self.context.device)
        feed = loader.TrainingLoader(
            self.data.train, self.recipe, ready, self.context.device, world,
            max(self.context.options.workers, 1), self.skipped,
        )  # fmt: skip
        options = StepOptions(config.autocast, world=world, memory_format=config.memory_format)
        for phase in phases.phases(self.recipe):
            if self.learner.step < phase.end:
                self._enter(phase, feed)
                batches = timed(feed.batches(self.learner.step))
                yield from loop.train(self.learner, batches, self.recipe, options, phase)

    def _enter(self, phase: phases.Phase, feed: loader.TrainingLoader) -> None:
        """Begin or resume a phase."""
        is_start = self.learner.step == phase.first
        feed.proposals = None
        if phase.fixed_proposals:
            file = self.context.run / f"proposals-{phase.number}.safetensors"
            if is_start:
                proposals = phases.propose_all(self.net, feed)
                self.context.world.on_first(lambda: checkpoint.save(file, proposals, {}))
            feed.proposals = checkpoint.read(file)[0]
        if is_start and phase.number > 1:
            start = self.context.run / INITIAL
            if self.recipe.start and not start.exists():
                raise ValueError(
                    f"{start} is missing: the weights that the second stage begins with"
                )
            phases.enter(phase, self.learner, checkpoint.read(start)[0] if start.exists() else None)
            self.context.config.prepare(self.net)
        phases.freeze(phase, self.net)

    def line(self, step: Step) -> dict[str, Any]:
        return {}

    def images_of(self, step: int) -> tuple[float, list[int]]:
        """The learning rate of a step, and the indices of its images in this process."""
        places = loader.batch_places(
            len(self.data.train.examples), self.recipe, step, self.context.world
        )
        return phases.learning_rate(self.recipe, step), [i for *_, i in places]

    def complete(self) -> bool:
        return False

    def evaluate(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The average precision on the test split."""
        train, environment, net = self.data.train, self.context.environment, self.net.eval()
        details = self.recipe.network, self.classes, self.preprocessing, self.recipe
        trained = TrainedDetector(net, *details, self.learner.step)
        config, workers = self.context.config.in_float32(), self.context.options.workers
        options = EvalOptions(config, workers, world=self.context.world)
        record = evaluate([trained], self.data.test, Testing(), options) | {
            "trained_on": {"name": train.name, "fingerprint": train.fingerprint},
            "skipped_boxes": list(train.skipped),
        }
        return record | {k: environment[k] for k in ("before",) if k in environment}, {}
