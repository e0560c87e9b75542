"""The verb `predict`: labels and probabilities of pictures."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from residual.data.batches import Preprocessing
from residual.data.decode import Damaged, decode
from residual.deployment.engine import Engine, engine
from residual.evaluation.panel import best as best_of
from residual.finite import WORDS, NotFinite, is_finite
from residual.runs.loading import Trained, load
from residual.world import Setting

TOGETHER = 16  # pictures that are answered at once, so that memory stays bounded


def predict(
    trained: Trained | Path | str, images: Sequence[Path | str] | Path | str, top: int = 5
) -> list[dict[str, Any]]:
    """For each picture, or one, its labels, best first, or the error that kept it from an answer.

    Each is `{"image", "labels": [{"label", "probability"}, ...]}` or `{"image", "error"}`.
    """
    given = [images] if isinstance(images, str | Path) else images
    paths = [Path(image) for image in given]
    threads = torch.get_num_threads()
    if isinstance(trained, Trained):
        device = str(next(trained.net.parameters()).device)
        return list(Setting(device, threads).within(answers(trained, paths, top)))
    # Nobody else holds the network.
    return list(Setting(threads=threads).within(answers(load(trained), paths, top)))


def answers(
    trained: Trained,
    images: Iterable[Path],
    top: int,
    engine_of: Callable[[Trained], Engine] = engine,
    together: int = TOGETHER,
) -> Generator[dict[str, Any]]:
    """One answer at a time, so that a damaged picture costs no other its answer. The next pictures
    are decoded while the network looks at these."""
    answering = engine_of(trained)
    trained = replace(trained, net=nn.Identity())  # the engine has what it needs of the weights
    look = partial(looked_at, before=trained.preprocessing)
    left = iter(images)
    with ThreadPoolExecutor(max(2, torch.get_num_threads())) as pool:
        groups = iter(lambda: list(islice(left, together)), [])
        coming = ((group, pool.map(look, group)) for group in groups)
        current = next(coming, None)
        while current:
            following = next(coming, None)
            group, inputs = current[0], list(current[1])
            whole = [each for each in inputs if isinstance(each, Tensor)]
            found = iter(finite(trained, answering(torch.stack(whole))) if whole else ())
            for image, each in zip(group, inputs, strict=True):
                if isinstance(each, Tensor):
                    yield {"image": str(image), "labels": best(trained, next(found), top)}
                else:
                    yield {"image": str(image), "error": each}
            current = following


def looked_at(image: Path, before: Preprocessing) -> Tensor | str:
    """A picture as the network's input (3, H, W), or why there is none."""
    try:
        pixels = decode(image, before.size, before.shorter)
    except (Damaged, OSError) as error:
        return str(error)
    return before(pixels[None])[0]


def best(trained: Trained, probabilities: Tensor, top: int) -> list[dict[str, Any]]:
    """The best classes by name, best first, of probabilities (classes,)."""
    names = trained.classes or [str(i) for i in range(len(probabilities))]
    return [
        {"label": names[place], "probability": float(probabilities[place])}
        for place in best_of(probabilities[None], top)[0].tolist()
    ]


def finite(trained: Trained, probabilities: Tensor) -> Tensor:
    """The same. Raises NotFinite where a probability is not finite."""
    if not is_finite(probabilities):
        raise NotFinite(f"{trained.network} answers with {WORDS}")
    return probabilities
