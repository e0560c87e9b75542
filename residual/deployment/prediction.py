"""The verb `predict`: labels and probabilities of pictures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from residual.data.decode import Damaged, decode
from residual.runs.loading import Trained, load


def predict(
    trained: Trained | Path | str, images: Sequence[Path | str], top: int = 5
) -> list[dict[str, Any]]:
    """For each picture its labels, best first, or the error that kept it from an answer.

    Each is `{"image", "labels": [{"label", "probability"}, ...]}` or `{"image", "error"}`.
    """
    net = trained if isinstance(trained, Trained) else load(trained)
    return list(answers(net, [Path(image) for image in images], top))


def answers(trained: Trained, images: Sequence[Path], top: int) -> Iterator[dict[str, Any]]:
    """One answer at a time, so that a damaged picture costs no other its answer."""
    device = next(trained.net.parameters()).device
    preprocessing = trained.preprocessing.to(device)
    for image in images:
        try:
            picture = decode(image, preprocessing.size, preprocessing.shorter)
        except (Damaged, OSError) as error:
            yield {"image": str(image), "error": str(error)}
            continue
        with torch.inference_mode():
            scores = trained.net(preprocessing(picture[None].to(device)))[0]
        best = scores.float().softmax(dim=0).topk(min(top, len(scores)))
        names = trained.classes or [str(i) for i in range(len(scores))]
        yield {
            "image": str(image),
            "labels": [
                {"label": names[place], "probability": probability}
                for probability, place in zip(
                    best.values.tolist(), best.indices.tolist(), strict=True
                )
            ],
        }
