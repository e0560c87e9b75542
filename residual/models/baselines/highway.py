"""Highway networks for CIFAR-10 (Srivastava, Greff and Schmidhuber, 1505.00387 and 1507.06228)."""

from torch import nn

from residual.models.baselines.layers import Highway, conv, global_average, initialize, sequential

STAGES = {  # filters, and the kernels of the highway layers
    19: ((32, (3,) * 4), (80, (3,) * 5), (128, (3,) * 5)),
    32: tuple((width, (1, 3, 1, 3, 1, 3, 1, 3, 1)) for width in (32, 64, 96)),
}


def highway(depth: int, classes: int) -> nn.Module:
    """Images (N, 3, H, W) -> scores (N, classes)."""
    # Choice: Highway-19 is the released configuration, which ends in a 1x1 convolution and the
    # average (2,256,838 parameters, 7.60 % in the publication); Table 6 has 7.54 %, of a net with a
    # fully-connected layer of unpublished size.
    # Choice: no file of Highway-32 is public. It has three stages of ten layers (32, 64 and 96
    # filters; the first of each stage plain, the others 1x1 and 3x3 in turn) and the last layers of
    # Highway-19: 1,264,502 parameters; the publication says 1.25M.
    parts: dict[str, nn.Module] = {"drop0": nn.Dropout(0.2)}
    n_in, number = 3, 1
    for stage, (width, kernels) in enumerate(STAGES[depth], 1):
        parts[f"conv{number}"] = conv(n_in, width, 3)
        for i, kernel in enumerate(kernels, number + 1):
            parts[f"highway{i}"] = Highway(width, kernel)
        n_in, number = width, number + 1 + len(kernels)
        if stage < 3:
            parts[f"pool{stage}"], parts[f"drop{stage}"] = nn.MaxPool2d(2), nn.Dropout(0.2)
    net = sequential(
        **parts,
        **{f"conv{number}": conv(n_in, 100, 1)},
        pool3=global_average(),
        drop3=nn.Dropout(0.2),
        fc=nn.Linear(100, classes),
    )
    initialize(net, nn.init.xavier_uniform_)
    for module in net.modules():
        if isinstance(module, Highway) and module.gate.bias is not None:
            nn.init.constant_(module.gate.bias, -2.0)  # the layer copies its input at first
    # Choice: the first layer is initialized as the others; its published initialization, a normal
    # deviation of 1, is probably a misprint.
    initialize(net.get_submodule("fc"), lambda weight: nn.init.normal_(weight, std=0.05))
    return net
