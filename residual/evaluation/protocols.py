"""How the views of a picture come about and become one answer: Sections 3.4 and 4.2, by name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

Average = Literal["probabilities", "scores"]


@dataclass(frozen=True)
class Protocol:
    """Which views of a picture are judged, and what of them is averaged."""

    name: str
    sides: tuple[int, ...] = ()  # shorter sides in pixels; none: the one each network was made for
    mirror: bool = False  # each view a second time, mirrored
    # Choice: the softmax is averaged, over views and over networks alike, as the authors' release
    # does for its ten crops; for scales and ensembles the paper says "scores" (Sec. 3.4), which may
    # be either.
    average: Average = "probabilities"

    @property
    def whole(self) -> bool:
        """The network looks at whole pictures, fully convolutionally, and at no crops."""
        return self.name == "multiscale"

    @property
    def views(self) -> int:
        """Of each picture, for each network."""
        crops = 5 if self.name == "10crop" else 1
        return crops * max(1, len(self.sides)) * (1 + self.mirror)


PROTOCOLS = {
    "1crop": Protocol("1crop"),
    # Choice: the shorter side is 256, as in the authors' release; the paper names none for testing.
    "10crop": Protocol("10crop", sides=(256,), mirror=True),
    # Choice: the mirrored picture too, as in the works that the paper cites for this protocol.
    "multiscale": Protocol("multiscale", sides=(224, 256, 384, 480, 640), mirror=True),
}


def protocol(
    name: str,
    average: str = "probabilities",
    mirror: bool | None = None,
    sides: Sequence[int] | None = None,
) -> Protocol:
    """A protocol by its name, with what is said of it. Raises ValueError for what is none."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    if average not in get_args(Average):
        raise ValueError(f"{average!r} cannot be averaged; there are probabilities and scores")
    if sides is not None and (not sides or min(sides) < 1 or len(set(sides)) < len(sides)):
        raise ValueError("the shorter sides are different numbers of pixels, like 224,256,384")
    chosen = replace(PROTOCOLS[name], average=cast("Average", average))
    if mirror is not None:
        chosen = replace(chosen, mirror=mirror)
    return chosen if sides is None else replace(chosen, sides=tuple(sides))
