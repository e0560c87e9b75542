"""The recipes of the baselines, from their publications and released files."""

import re
from dataclasses import replace

from residual.tasks.classification.recipe import ClassificationRecipe

# Simonyan and Zisserman 2015, Sec. 3.1: batch 256, weight decay 5e-4, a rate of 0.01 that was
# lowered three times, 370,000 iterations; the shorter side is drawn from 256 to 512.
# Choice: VGG's rate drops at equal distances; published: when the accuracy stopped improving.
VGG = ClassificationRecipe(
    "vgg16",
    batch=256,
    norm_group=32,
    steps=370_000,
    drops=(92_500, 185_000, 277_500),
    lr=0.01,
    weight_decay=5e-4,
    crop="scale",
    scales=(256, 512),
    mean="channel",
    colour=0.1,
)
# Szegedy et al. 2014: momentum 0.9, the rate lowered by 4 %, an average of the weights, and crops
# of 8 to 100 % of the area. The batch and the rates are those of the public training with Caffe.
# Deviation: GoogLeNet is trained without photometric distortions and random interpolation; colours
# are shifted as in AlexNet.
# Choice: GoogLeNet's weights are averaged over about the last 100,000 steps; the publication says
# only "Polyak averaging".
GOOGLENET = ClassificationRecipe(
    "googlenet",
    batch=32,
    norm_group=32,
    steps=2_400_000,
    drops=tuple(range(320_000, 2_400_000, 320_000)),
    factor=0.96,
    lr=0.01,
    weight_decay=2e-4,
    auxiliary=0.3,
    crop="aspect",
    mean="channel",
    colour=0.1,
    average=(10, 0.9999),
)
# Ioffe and Szegedy 2015, BN-x30: a rate of 0.045, 6 million steps of 32 images, no dropout. The
# decays are those of a public training: 4 % each 6,400 steps of 64, and 2e-4.
# Deviation: BN-Inception has AlexNet's colour shift as photometric distortion.
BN_INCEPTION = replace(
    GOOGLENET,
    network="bn-inception",
    steps=6_000_000,
    drops=tuple(range(12_800, 6_000_000, 12_800)),
    lr=0.045,
    auxiliary=0.0,
    average=ClassificationRecipe.average,
)
# He et al. 2015, "Delving deep": batch 128, weight decay 5e-4, rates of 0.01, 0.001 and 0.0001,
# about 80 epochs, the shorter side from 256 to 512.
# Choice: PReLU-net is trained for 800,000 steps (80 epochs of 1,281,167 images), with drops at a
# half and three quarters; published: when the error stopped improving.
PRELU_NET = replace(
    VGG,
    network="prelu-net-A",
    batch=128,
    steps=800_000,
    drops=(400_000, 600_000),
    mean="pixel",
)
# Goodfellow et al. 2013, pylearn2's cifar10.yaml: 474 epochs, a rate of 0.17 that falls to a
# hundredth of it at epoch 500, a twentieth of that for convolutions, momentum from 0.5 to 0.65 at
# epoch 250, no weight decay. An epoch of 50,000 images is 391 batches.
MAXOUT = ClassificationRecipe(
    "maxout",
    steps=474 * 391,
    drops=(500 * 391,),
    schedule="linear",
    factor=0.01,
    lr=0.17,
    convolution_rate=0.05,
    momentum=0.5,
    momentum_rise=(250 * 391, 0.65),
    weight_decay=0.0,
    contrast="whitened",
)
# Lin et al. 2014, the author's file: 200 epochs, 30 at a tenth of the rate and 30 at a hundredth;
# the last layer learns a tenth as fast as the others, and biases twice as fast.
NIN = replace(
    MAXOUT,
    network="nin",
    steps=260 * 391,
    drops=(200 * 391, 230 * 391),
    schedule="drops",
    factor=0.1,
    lr=0.01,
    backbone_rate=10.0,
    convolution_rate=1.0,
    bias_rate=2.0,
    momentum=0.9,
    momentum_rise=(0, 0.9),
    weight_decay=1e-4,
)
# Lee et al. 2015, the released files: batch 100, 50,000 iterations with the companion heads and
# 120,000 without them, then 30,000 at 1e-4; the last layer at a tenth of 0.025.
# Deviation: DSN's heads have a thousandth of the learning rate, without a decay of their own.
DSN = replace(
    NIN,
    network="dsn",
    batch=100,
    norm_group=100,
    steps=200_000,
    drops=(170_000,),
    factor=0.004,
    lr=0.0025,
    weight_decay=5e-4,
    heads_rate=0.001,
    loss="squared-hinge",
    auxiliary=1.0,
    auxiliary_steps=50_000,
    contrast="normalized",
)
# Romero et al. 2015: RMSProp at 0.005, convolutions at a twentieth, 288 epochs.
# Deviation: FitNet-19 is trained without a teacher. The published 8.39 % is of the next two
# recipes, one after the other; in the publication so deep and thin a net did not learn alone.
FITNET = replace(
    MAXOUT,
    network="fitnet19",
    steps=288 * 391,
    drops=(),
    schedule="drops",
    factor=0.1,
    optimizer="rmsprop",
    lr=0.005,
    momentum_rise=(0, 0.9),
    padding=8,
)
# The same in two stages, with a Maxout network as the teacher: first the layers up to the guided
# one, by the teacher's second hidden layer; then, from there, the whole network by labels and by
# the teacher's answers at temperature 3, which count 4 at first and 1 at the end.
# Choice: the first stage has 288 epochs, as the second; published: at most 500, and an end after
# 100 epochs without improvement.
# Choice: the weight of the distillation loss falls over the whole training; in the authors' file it
# falls from epoch 5 to epoch 400, of which 288 were trained.
FITNET_HINT = replace(FITNET, lesson="hint")
FITNET_DISTILLED = replace(FITNET, lesson="distillation", guidance=(4.0, 1.0), temperature=3.0)
# Srivastava et al. 2015, the released solver: batch 100, 200,000 iterations, weight decay 0.001 and
# ten times as much on the classifier, biases at twice the rate; 8 pixels of padding.
HIGHWAY = ClassificationRecipe(
    "highway19",
    batch=100,
    norm_group=100,
    steps=200_000,
    drops=(100_000, 150_000, 175_000),
    lr=0.025,
    optimizer="nesterov",
    weight_decay=1e-3,
    last_decay=10.0,
    bias_rate=2.0,
    padding=8,
    contrast="normalized",
)

RECIPES = {
    "vgg": VGG,
    "googlenet": GOOGLENET,
    "bn-inception": BN_INCEPTION,
    "prelu-net": PRELU_NET,
    "maxout": MAXOUT,
    "nin": NIN,
    "dsn": DSN,
    "fitnet": FITNET,
    "fitnet-hint": FITNET_HINT,
    "fitnet-distilled": FITNET_DISTILLED,
    "highway": HIGHWAY,
}


def recipe_of(network: str) -> str:
    """The name of a compared network's recipe: the network's, without its depth or letter."""
    return re.sub(r"[0-9]+$|-[ABC]$", "", network)
