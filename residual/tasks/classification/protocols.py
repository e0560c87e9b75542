"""Test protocols by name: the views of a picture, and the average of their scores.

They are those of Sections 3.4 and 4.2, and of the networks that Tables 3 to 5 compare with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from residual.data.normalization import Preprocessing
from residual.data.test_crops import VIEWS, ViewKind
from residual.tasks.classification.recipe import CROP

Average = Literal["probabilities", "scores"]


@dataclass(frozen=True)
class Protocol:
    """The views of a picture, and what of their scores is averaged."""

    name: str
    cut: ViewKind = "centre"
    sides: tuple[int, ...] = ()  # shorter sides in pixels; none: the one each network was made for
    custom_sides: bool = False  # the sides were set by the user; else they are for crops of CROP
    mirror: bool = False  # each view a second time, mirrored
    # Choice: the softmax is averaged over views and networks, as in the authors' release for ten
    # crops; for scales and ensembles the paper says "scores" (Sec. 3.4), which may be before or
    # after the softmax.
    average: Average = "probabilities"

    @property
    def fully_convolutional(self) -> bool:
        """Whether networks are applied to whole pictures, not to crops."""
        return self.cut == "whole"

    @property
    def views(self) -> int:
        """The number of views of each picture, for each network."""
        return VIEWS[self.cut] * max(1, len(self.sides)) * (1 + self.mirror)

    def shorter_sides(self, preprocessing: Preprocessing) -> tuple[int, ...]:
        """The shorter sides, in pixels, to which pictures are resized for a network."""
        size = min(preprocessing.size)
        if not self.sides:
            return (preprocessing.shorter or size,)
        made_for = size if self.custom_sides else CROP
        return tuple(round(side * size / made_for) for side in self.sides)


PROTOCOLS = {
    "1crop": Protocol("1crop"),
    # Choice: the shorter side is 256, as in the authors' release; the paper names none for testing.
    "10crop": Protocol("10crop", "corners", sides=(256,), mirror=True),
    # Choice: multi-scale tests have mirrored views, as in the works that the paper cites.
    "multiscale": Protocol("multiscale", "whole", sides=(224, 256, 384, 480, 640), mirror=True),
    # GoogLeNet (Szegedy et al. 2015) and BN-inception (Ioffe and Szegedy 2015).
    "144crop": Protocol("144crop", "squares", sides=(256, 288, 320, 352), mirror=True),
    # VGG (Simonyan and Zisserman 2015), multi-crop and dense, of nets trained on [256, 512].
    "150crop": Protocol("150crop", "grid", sides=(256, 384, 512), mirror=True),
    "dense": Protocol("dense", "whole", sides=(256, 384, 512), mirror=True),
    # Choice: PReLU-net (He et al. 2015) combines several scales that are not published exactly;
    # these are the scales with results of their own in the publication.
    "multiview": Protocol("multiview", "whole", sides=(256, 384, 480), mirror=True),
}


def get_protocol(
    name: str,
    average: str = "probabilities",
    mirror: bool | None = None,
    sides: Sequence[int] | None = None,
) -> Protocol:
    """A protocol by name, with the given changes. Raises ValueError for a name or value that does
    not exist."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    if average not in get_args(Average):
        raise ValueError(f"{average!r} cannot be averaged; there are probabilities and scores")
    if sides is not None and (not sides or min(sides) < 1 or len(set(sides)) < len(sides)):
        raise ValueError("the shorter sides are different numbers of pixels, like 224,256,384")
    protocol = replace(PROTOCOLS[name], average=cast("Average", average))
    if mirror is not None:
        protocol = replace(protocol, mirror=mirror)
    return protocol if sides is None else replace(protocol, sides=tuple(sides), custom_sides=True)
