"""What a server needs of a classifier or a detector: decode a picture, infer a batch, explain."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from residual.analysis.explain import explain
from residual.data.decode import open_image
from residual.device import ComputeConfig
from residual.export import detector_check
from residual.export.engine import engine
from residual.export.onnx_file import OnnxFile
from residual.export.predict import Classifier, classifier, exported_classifier
from residual.runs.load import Trained
from residual.storage import damage_errors
from residual.tasks.detection.inference import Detect, file_detector, objects
from residual.tasks.detection.load import TrainedDetector
from residual.tasks.detection.recipe import Testing, choose_testing
from residual.training.checkpoint import weights_sha256

Card = dict[str, Any]
Row = dict[str, Any]
LARGEST = 1_000  # batch of any model
LARGEST_WHOLE = 2  # batch of one that takes pictures whole, which need memory


@dataclass(frozen=True)
class ServedModel:
    """A classifier or a detector. `decode` may run in any thread, the others in one."""

    card: Card  # for clients: names no path of this machine
    decode: Callable[[bytes], Any]  # a file -> an input; raises DamagedImage
    infer: Callable[[Sequence[Any]], Sequence[Any]]  # inputs -> raw results
    answer: Callable[[Any, int, float], Row]  # a raw result, top, score -> labels or objects
    explain: Callable[[Image.Image, str | None], Image.Image] | None = None  # for a class
    largest_batch: int = LARGEST
    least_score: float = 0.0  # of an object that is found


# ---- classifiers --------------------------------------------------------------------------------


def trained_classifier(trained: Trained, config: ComputeConfig) -> ServedModel:
    """A classifier with its class activation maps."""
    trained = trained.placed(config)
    name = "auto" if config.precision == "float32" else "torch"
    model = classifier(trained, lambda trained: engine(trained, name, config.threads))
    view = trained.preprocessing

    def draw_map(picture: Image.Image, class_name: str | None) -> Image.Image:
        return explain(trained, picture, class_name).draw()

    sides = {"shorter": view.shorter, "size": list(view.size)}
    return served_classifier(trained_card(trained, config), sides, model, config, draw_map)


def exported_model(file: OnnxFile) -> ServedModel:
    """The classifier or the detector of an .onnx file. Raises ValueError."""
    with damage_errors(file.path):
        return exported_detector(file) if file.detects else exported_network(file)


def exported_network(file: OnnxFile) -> ServedModel:
    """The classifier of an .onnx file."""
    view = file["preprocessing"]
    card, sides = exported_card(file), {"shorter": view["shorter"], "size": view["size"]}
    largest = LARGEST_WHOLE if view["inside"] else LARGEST
    return served_classifier(card, sides, exported_classifier(file), ComputeConfig(), None, largest)


def served_classifier(
    card: Card,
    sides: dict[str, Any],
    model: Classifier,
    config: ComputeConfig,
    draw_map: Callable[[Image.Image, str | None], Image.Image] | None,
    largest_batch: int = LARGEST,
) -> ServedModel:
    """A classifier with labels as `residual predict` prints them."""

    def infer(inputs: Sequence[Any]) -> Sequence[Any]:
        with config.autocast():
            return list(model.probabilities(inputs))

    def answer(row: Any, top: int, _score: float) -> Row:
        return {"labels": model.labels(row, top)}

    card = card | {"task": "classification", "input": sides}
    return ServedModel(card, model.prepare, infer, answer, draw_map, largest_batch)


# ---- detectors ----------------------------------------------------------------------------------


def trained_detector(detector: TrainedDetector, config: ComputeConfig) -> ServedModel:
    """A detector of a run or a checkpoint."""
    testing = choose_testing(detector.recipe, refine=False, multiscale=False)
    card = trained_card(detector, config)
    sides = {"shorter": detector.recipe.shorter, "longest": detector.recipe.longest}
    detect = file_detector([detector], testing, config)
    return served_detector(card | {"input": sides}, detect, detector.classes, testing)


def exported_detector(file: OnnxFile) -> ServedModel:
    """The detector of an .onnx file."""
    detect, classes, testing = detector_check.exported_detector(file)
    view = file["preprocessing"]
    sides = {"shorter": view["shorter"], "longest": view["longest"]}
    return served_detector(exported_card(file) | {"input": sides}, detect, classes, testing)


def served_detector(
    card: Card, detect: Detect, classes: Sequence[str], testing: Testing
) -> ServedModel:
    """A detector with objects as `residual detect predict` prints them."""

    def infer(pictures: Sequence[Any]) -> Sequence[Any]:
        return [detect(picture) for picture in pictures]

    def answer(result: Any, _top: int, score: float) -> Row:
        return {"objects": objects(result, classes, score)}

    card = card | {"task": "detection"}
    return ServedModel(card, open_image, infer, answer, None, 1, testing.least)


# ---- cards --------------------------------------------------------------------------------------


def trained_card(trained: Trained, config: ComputeConfig) -> Card:
    """What a client may know of a trained network."""
    steps = f"trained by residual, {trained.step:,} steps" if trained.step else ""
    return {
        "network": trained.network,
        "classes": list(trained.classes) if trained.classes else None,
        "error": trained.error,
        "source": trained.source or steps,
        "precision": config.precision,
        "weights_sha256": weights_sha256(trained.net.state_dict()),
    }


def exported_card(file: OnnxFile) -> Card:
    """What a client may know of an exported file. Of one in eight bits, `error` is that of the
    network in float32; `int8` has both errors on the pictures of its comparison."""
    texts = file.texts
    kinds = [f"{kind}_{name}" for kind in ("error", "ap") for name in ("float32", "int8")]
    compared = {key: file[key] for key in kinds if key in texts}
    return {
        "network": file["network"],
        "classes": file["labels"],
        "error": file["error"] if "error" in texts else None,
        "source": file["source"],
        "precision": file["precision"] if "precision" in texts else "float32",
        **({"int8": file["evaluation"] | compared} if compared else {}),
        "weights_sha256": file["weights_sha256"],
    }
