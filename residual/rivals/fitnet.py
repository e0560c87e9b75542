"""FitNet-19, "FitNet 4" of Romero et al. (arXiv 1412.6550)."""

from torch import nn

from residual.rivals.parts import Maxout, WithHeads, drawn, limited, stack

WIDTHS = (*(32,) * 3, *(48,) * 2, *(80,) * 6, *(128,) * 6)
POOLED = {4: 2, 10: 2, 16: 8}  # after which layer, and over how many pixels
GUIDED = "pool10"  # the part that a hint is given to


def fitnet(classes: int) -> nn.Module:
    """Images (N, 3, 32, 32) -> scores (N, classes); in training the map (N, 192, 7, 7) behind them
    that is to be like the second hidden layer of a Maxout network."""
    parts: dict[str, nn.Module] = {}
    n_in = 3
    for i, width in enumerate(WIDTHS):
        parts[f"h{i}"] = limited(nn.Conv2d(n_in, width * 2, 3, padding=1), 0.9)
        parts[f"maxout{i}"] = Maxout(2)
        if i in POOLED:
            parts[f"pool{i}"] = nn.MaxPool2d(POOLED[i])
        n_in = width
    # Choice: five pieces in the fully-connected layer, as its file says: 2,742,102 parameters; the
    # "2.5M" that are printed for it are two.
    parts |= {
        "flat": nn.Flatten(),
        "h17": limited(nn.Linear(128, 500 * 5), 1.9),
        "maxout17": Maxout(5),
        "fc": limited(nn.Linear(500, classes), 1.9365),
    }
    body = drawn(stack(**parts), "uniform", 0.005)
    regressor = stack(h=limited(nn.Conv2d(80, 192 * 2, 2), 0.9), maxout=Maxout(2))
    return WithHeads(dict(body.named_children()), {GUIDED: drawn(regressor, "uniform", 0.05)})
