"""How the views of a picture come about and become one answer: Sections 3.4 and 4.2, by name.

And the protocols behind the numbers of the networks that Tables 3 to 5 compare with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

Average = Literal["probabilities", "scores"]
Cut = Literal["centre", "corners", "squares", "grid", "whole"]
VIEWS: dict[Cut, int] = {  # of a picture in one size, before they are mirrored
    "centre": 1,
    "corners": 5,  # four, and the centre
    "squares": 18,  # three squares; of each the corners, the centre, and all of it made small
    "grid": 25,  # five by five
    "whole": 1,  # the network looks at the whole picture, fully convolutionally, and at no crops
}

CROP = 224  # pixels on a side of the published crops, to which the sides below belong


@dataclass(frozen=True)
class Protocol:
    """Which views of a picture are judged, and what of them is averaged."""

    name: str
    cut: Cut = "centre"
    sides: tuple[int, ...] = ()  # shorter sides in pixels; none: the one each network was made for
    asked: bool = False  # for just these sides; else they are for crops of 224
    mirror: bool = False  # each view a second time, mirrored
    # Choice: the softmax is averaged, over views and over networks alike, as the authors' release
    # does for its ten crops; for scales and ensembles the paper says "scores" (Sec. 3.4), which may
    # be either.
    average: Average = "probabilities"

    @property
    def whole(self) -> bool:
        """The network looks at whole pictures, and at no crops."""
        return self.cut == "whole"

    @property
    def views(self) -> int:
        """Of each picture, for each network."""
        return VIEWS[self.cut] * max(1, len(self.sides)) * (1 + self.mirror)

    def in_proportion(self, size: int) -> tuple[int, ...]:
        """The sides for crops of another size."""
        return tuple(round(side * size / CROP) for side in self.sides)


PROTOCOLS = {
    "1crop": Protocol("1crop"),
    # Choice: the shorter side is 256, as in the authors' release; the paper names none for testing.
    "10crop": Protocol("10crop", "corners", sides=(256,), mirror=True),
    # Choice: the mirrored picture too, as in the works that the paper cites for this protocol.
    "multiscale": Protocol("multiscale", "whole", sides=(224, 256, 384, 480, 640), mirror=True),
    # GoogLeNet (Szegedy et al. 2015) and BN-inception (Ioffe and Szegedy 2015).
    "144crop": Protocol("144crop", "squares", sides=(256, 288, 320, 352), mirror=True),
    # VGG (Simonyan and Zisserman 2015), multi-crop and dense, of nets trained on [256, 512].
    "150crop": Protocol("150crop", "grid", sides=(256, 384, 512), mirror=True),
    "dense": Protocol("dense", "whole", sides=(256, 384, 512), mirror=True),
    # Choice: PReLU-net (He et al. 2015) combines several scales, and we do not know exactly which;
    # these are the ones whose results its publication reports one by one.
    "multiview": Protocol("multiview", "whole", sides=(256, 384, 480), mirror=True),
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
    return chosen if sides is None else replace(chosen, sides=tuple(sides), asked=True)
