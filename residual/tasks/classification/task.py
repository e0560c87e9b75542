"""Classification as a task of a run."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import Tensor

from residual.data.datasets import Data, ImageSet, apply_split
from residual.data.loader import LoaderOptions, check_damage_budget, max_workers
from residual.data.normalization import Preprocessing
from residual.data.sampler import batch_indices, class_weights
from residual.models.registry import build
from residual.runs.session import RunContext, fresh, prefixed
from residual.storage import write_json
from residual.tasks.classification import distillation, loader, loop
from residual.tasks.classification.evaluate import CURVE, error_record, evaluate_member
from residual.tasks.classification.inference import InferenceOptions, Member
from residual.tasks.classification.metrics import Count
from residual.tasks.classification.recipe import ClassificationRecipe, learning_rate
from residual.training import optim
from residual.training.checkpoint import Tensors, preprocessing_of
from residual.training.early_stopping import EarlyStopping
from residual.training.events import evaluation_interval
from residual.training.loop import Step, StepOptions


class Classification:
    """The training of a classifier; see `runs.session.Task`."""

    losses: tuple[str, ...] = ()
    curve: tuple[str, ...] = CURVE
    replacement = "another of its class"

    def __init__(self, recipe: ClassificationRecipe, data: Data, context: RunContext) -> None:
        self.recipe, self.context = recipe, context
        self.data = apply_split(data, recipe.split)
        self.classes = data.classes
        context.world.local_batch(recipe.batch, recipe.norm_group)
        net = fresh(recipe.seed, partial(build, recipe.network, len(data.classes)))
        self.net = context.config.prepare(net)
        self.learner = loop.start(self.net, recipe)
        if recipe.balance == "weights":
            weights = class_weights(self.data.train.labels, len(data.classes))
            self.learner.weights = weights.to(context.device)
        self.stopping = EarlyStopping(recipe.patience if recipe.schedule != "plateau" else 0)
        self.average: dict[str, Tensor] = {}
        self.skipped: dict[str, str] = {}
        self.over = False  # the final weights and statistics are set
        self.test_result: tuple[int, tuple[Count, Tensor, list[str]]] | None = None  # by step
        self.preprocessing: Preprocessing  # measured by `begin`, or read by `restore`

    def begin(self) -> None:
        """Measure the preprocessing on the training set."""
        options = self.context.options
        if self.recipe.average[0]:
            self.average = optim.start_average(self.net)
        self.preprocessing = self.context.world.on_first(
            lambda: loader.preprocessing(self.recipe, self.data, options.workers, options.progress)
        )

    def restore(self, tensors: Tensors, header: dict[str, Any]) -> None:
        """Restore average, validation errors, skipped images and preprocessing."""
        device = self.context.device
        self.learner.plateaus = header.get("plateaus", 0)
        self.average = prefixed("average.", tensors, device)
        if self.recipe.average[0] and not self.average:  # initial weights
            self.average = optim.start_average(self.net)
        self.stopping.restore(header.get("looks", []), prefixed("best.", tensors, device))
        self.skipped = header.get("skipped", {})
        self.over = header.get("over", False)
        self.preprocessing = preprocessing_of(tensors, header)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Raises DamagedImage if all processes together skipped too many images."""
        skipped = sorted(set(self.context.world.all_gather(list(self.skipped))))
        check_damage_budget(len(skipped), len(self.data.train), skipped[-1] if skipped else "")
        states = {"average.": self.average, "best.": self.stopping.best}
        tensors = {
            f"{prefix}{name}": tensor
            for prefix, state in states.items()
            for name, tensor in state.items()
        }
        return tensors, {
            "plateaus": self.learner.plateaus,
            "looks": self.stopping.errors,
            "over": self.over,
        }

    def steps(self, timed: Callable[[Iterator[Any]], Iterator[Any]]) -> Iterator[Step]:
        """Take the steps that remain."""
        recipe, config = self.recipe, self.context.config
        if recipe.lesson != "none":
            self.learner.teacher = distillation.teacher_function(
                recipe, self.context.environment, self.classes, self.preprocessing, config
            )
        images = config.at_once
        # On a GPU all of this process's; one norm group fits the caches of a CPU better.
        if not images and self.context.device.type != "cpu":
            images = self.context.world.local_batch(recipe.batch, recipe.norm_group)
        options = StepOptions(config.autocast, images, self.context.world)
        every, decay = recipe.average
        for step in loop.train(self.learner, timed(self._batches()), recipe, options):
            if step.images < options.images and step.images != self.context.config.at_once:
                self._remember_micro_batch(step.images)
            if every and step.number % every == 0:
                in_warmup = step.number <= recipe.warmup[0]
                optim.update_average(self.average, self.net, decay * (not in_warmup))
            yield step

    def _remember_micro_batch(self, images: int) -> None:
        """Store in the run how many images the memory holds."""
        context = self.context
        context.config = replace(context.config, at_once=images)
        context.environment["setting"] = asdict(context.config)
        context.notices.append(f"the memory holds {images} images at once; no step was lost")
        if context.world.rank == 0:
            write_json(context.run / "environment.json", context.environment)

    def _loader_options(self) -> LoaderOptions:
        workers = self.context.options.workers
        fits = max_workers(workers, loader.bytes_per_task(self.recipe))
        if fits < workers:
            self.context.notices.append(
                f"/dev/shm has room for the pictures of {fits} workers, not {workers}"
            )
        skip = self.skipped.setdefault
        return LoaderOptions(self.context.device, fits, self.context.world, skip)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Training batches, on the device."""
        layout = self.context.config.memory_format
        for images, labels in loader.batches(
            self.recipe, self.data, self.preprocessing, self._loader_options(), self.learner.step
        ):
            yield images.contiguous(memory_format=layout), labels

    def line(self, step: Step) -> dict[str, Any]:
        """The errors on the test and validation sets, at the steps that are evaluated."""
        values: dict[str, Any] = {}
        steps = self.recipe.steps
        if step.number == steps or step.number % evaluation_interval(steps) == 0:
            if self.context.environment["test_curve"]:
                values |= error_values("test", self._evaluate_test()[0])
            if self.recipe.patience:  # for a drop of the learning rate or early stopping
                assert self.data.selection_set is not None  # checks.check has seen to it
                counts, _, _ = self._evaluate(self.data.selection_set)
                self.stopping.add(step.number, counts.wrong_top1, self.net)
                if self.recipe.schedule == "plateau":
                    self.learner.plateaus = self.stopping.plateaus(self.recipe.patience)
                values |= error_values("val", counts)
        return values

    @property
    def ended(self) -> bool:
        """Whether the training has ended early."""
        return self.over or self.stopping.ended

    def images_of(self, step: int) -> tuple[float, list[int]]:
        """The learning rate of a step, and the indices of its images."""
        ids, _ = batch_indices(self.data.train.labels, loader.drawing(self.recipe), step)
        return learning_rate(self.recipe, step, self.learner.plateaus), ids.tolist()

    def _evaluate(self, images: ImageSet) -> tuple[Count, Tensor, list[str]]:
        member = Member(self.net, self.preprocessing, name=self.recipe.network)
        options = InferenceOptions(self.context.config.in_float32(), self.context.options.workers)
        return evaluate_member(member, images, len(self.classes), options)

    def _evaluate_test(self) -> tuple[Count, Tensor, list[str]]:
        """Evaluate on the headline's set, once per step."""
        if not (self.test_result and self.test_result[0] == self.learner.step):
            result = self._evaluate(self.data.split(self.data.headline))
            self.test_result = self.learner.step, result
        return self.test_result[1]

    def complete(self) -> bool:
        """Take the best or averaged weights, and precise batch-norm statistics."""
        net, recipe, context = self.net, self.recipe, self.context
        state = self.stopping.best or self.average
        if self.over or not (state or recipe.true_statistics):
            return False
        self.test_result = None
        if state:
            net.load_state_dict(state)
        if recipe.true_statistics:
            place, images = self._loader_options(), recipe.true_statistics
            loop.precise_batchnorm(
                net, recipe, self.data, self.preprocessing, place, context.config, images
            )
        self.over, self.average, self.stopping.best = True, {}, {}
        return True

    def evaluate(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The error on the headline's set; confusion.json is the confusion matrix."""
        counts, matrix, damaged = self._evaluate_test()
        curve = self.context.environment["test_curve"]
        record = error_record(self.data, counts, self.preprocessing, curve)
        record |= {"damaged": damaged, "steps_taken": self.learner.step}
        if self.stopping.best_step is not None:
            record["chosen_step"] = self.stopping.best_step
        return record, {"confusion.json": matrix.tolist()}


def error_values(name: str, count: Count) -> dict[str, Any]:
    """The error on a set, for the log."""
    return {
        f"{name}_wrong": count.wrong_top1,
        f"{name}_seen": count.images,
        f"{name}_error": count.error_top1,
    }
