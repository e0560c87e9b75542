"""VGG-16 and VGG-19, configurations D and E of Simonyan and Zisserman (arXiv 1409.1556)."""

from torch import nn

from residual.models.baselines.layers import average, conv, drawn, stack

CONVS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)


def vgg(depth: int, classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes).

    The fully-connected layers are convolutions, as the publication has them for its dense test: one
    place of a 224x224 image, and several of a larger one, whose scores are averaged.
    """
    parts: dict[str, nn.Module] = {}
    n_in = 3
    for group, (convs, width) in enumerate(zip(CONVS[depth], WIDTHS, strict=True), 1):
        for i in range(1, convs + 1):
            parts[f"conv{group}_{i}"] = conv(n_in, width, 3)
            n_in = width
        parts[f"pool{group}"] = nn.MaxPool2d(2)
    parts["fc6"], parts["drop6"] = conv(512, 4096, 7, pad=0), nn.Dropout(0.5)
    parts["fc7"], parts["drop7"] = conv(4096, 4096, 1), nn.Dropout(0.5)
    parts["fc8"] = nn.Conv2d(4096, classes, 1)
    # Choice: Glorot's start for all layers, of which the publication says that it makes its
    # training in stages unnecessary; the deviation that it prints for its own normal start, 0.1, is
    # in doubt, and the first layers of the 11-layer net would be needed.
    return drawn(stack(**parts, pool=average()), "xavier")
