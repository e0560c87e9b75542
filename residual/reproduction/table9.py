"""Table 9: detection on COCO, one improvement after another."""

from collections.abc import Sequence

from residual.reproduction import paper, table8
from residual.reproduction.detections import AP, Detection, System, coco_or_own, own_data, wanted
from residual.reproduction.experiments import Result
from residual.tasks.detection.recipe import MULTISCALE, Testing

CURVE = False
KEY = AP  # what a result file must hold
TOGETHER = 3  # networks of the ensemble
ALL = Testing(refinement=True, scales=MULTISCALE)
SYSTEMS = {
    "baseline VGG-16": System("vgg16"),
    "baseline ResNet-101": System("resnet101"),
    "+ box refinement": System("resnet101", refinement=True),
    "+ context": System("resnet101", refinement=True, context=True),
    "+ multi-scale testing": System("resnet101", True, True, True),
    "ensemble": System("resnet101", True, True, True, members=TOGETHER),
}
BESIDES = ("test-dev at .5, paper", "test-dev over [.5, .95], paper")
ON_TEST = (
    "\n\nThe boxes of test-dev are with a server, where the paper's last networks, trained on the "
    "validation set too, were judged: those columns are the paper's alone. Our ensemble is on "
    "the validation set, and trained on the training set, as the rows above it."
)


def runs(data: str, steps: int | None, seeds: int, depths: Sequence[int]) -> list[Detection]:
    """The baselines, and the improvements of the residual ones."""
    found = table8.runs(data, steps, seeds, depths)
    residual = [each for each in found if each.network.startswith("resnet")]
    found += [Detection(each.recipe, Testing(refinement=True)) for each in residual]
    for network in dict.fromkeys(each.network for each in residual):
        for recipe in wanted("coco", [network], steps, seeds, context=True):
            found += [Detection(recipe, Testing(refinement=True)), Detection(recipe, ALL)]
        # Choice: the paper does not say which three networks its ensemble has. We take one network
        # from three seeds.
        first = wanted("coco", [network], steps, 1, context=True)
        found += [Detection(recipe, ALL, members=TOGETHER) for recipe in first]
    return found


def shown(results: Sequence[Result]) -> list[Result]:
    return coco_or_own(results)


def table(results: Sequence[Result]) -> str:
    printed = {name: (SYSTEMS[name], numbers) for name, numbers in paper.TABLE_9.items()}
    if own_data(results):
        return table8.systems(results, printed)
    return table8.systems(results, printed, BESIDES) + ON_TEST
