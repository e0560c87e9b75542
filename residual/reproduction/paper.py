"""The numbers that the authors printed, named by table or figure. None is computed.

Errors are in percent. `None` stands where the paper prints a dash.
"""

# Table 1, depth: multiply-adds ("FLOPs") at 224x224
TABLE_1 = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}

# Table 2, depth: top-1 error of (plain, ResNet with option A), ImageNet validation, 10-crop
TABLE_2 = {18: (27.94, 27.88), 34: (28.54, 25.03)}

# Table 3, model: (top-1, top-5) error, ImageNet validation, 10-crop
TABLE_3: dict[str, tuple[float | None, float]] = {
    "VGG-16": (28.07, 9.33),  # the authors' own test
    "GoogLeNet": (None, 9.15),
    "PReLU-net": (24.27, 7.38),
    "plain-34": (28.54, 10.02),
    "ResNet-34 A": (25.03, 7.76),
    "ResNet-34 B": (24.52, 7.46),
    "ResNet-34 C": (24.19, 7.40),
    "ResNet-50": (22.85, 6.71),
    "ResNet-101": (21.75, 6.05),
    "ResNet-152": (21.43, 5.71),
}

# Table 4, method: (top-1, top-5) error of single models, ImageNet validation, multi-scale
TABLE_4: dict[str, tuple[float | None, float]] = {
    "VGG (ILSVRC'14)": (None, 8.43),  # on the test set
    "GoogLeNet (ILSVRC'14)": (None, 7.89),
    "VGG (v5)": (24.4, 7.1),
    "PReLU-net": (21.59, 5.71),
    "BN-inception": (21.99, 5.81),
    "ResNet-34 B": (21.84, 5.71),
    "ResNet-34 C": (21.53, 5.60),
    "ResNet-50": (20.74, 5.25),
    "ResNet-101": (19.87, 4.60),
    "ResNet-152": (19.38, 4.49),
}

# Table 5, method: top-5 error of ensembles, ImageNet test
TABLE_5 = {
    "VGG (ILSVRC'14)": 7.32,
    "GoogLeNet (ILSVRC'14)": 6.66,
    "VGG (v5)": 6.8,
    "PReLU-net": 4.94,
    "BN-inception": 4.82,
    "ResNet (ILSVRC'15)": 3.57,
}

# Table 6, depth: (test error, parameters in millions) of ResNets on CIFAR-10
TABLE_6 = {
    20: (8.75, 0.27),
    32: (7.51, 0.46),
    44: (7.17, 0.66),
    56: (6.97, 0.85),
    110: (6.43, 1.7),  # the best of five
    1202: (7.93, 19.4),
}

# Table 6, method: (layers, parameters in millions, test error) of the baselines
TABLE_6_BASELINES: dict[str, tuple[int | None, float | None, float]] = {
    "Maxout": (None, None, 9.38),
    "NIN": (None, None, 8.81),
    "DSN": (None, None, 8.22),
    "FitNet-19": (19, 2.5, 8.39),
    "Highway-19": (19, 2.3, 7.54),  # the best of five
    "Highway-32": (32, 1.25, 8.80),
}

# Table 6, method: (mean, standard deviation) of the test error over five runs
TABLE_6_FIVE_RUNS = {"ResNet-110": (6.61, 0.16), "Highway-19": (7.72, 0.16)}

# Figures 1 and 6 are curves, whose ends are read off with an error of 0.1 to 0.3 points.
READING_ERROR = 0.3

# Figure 1, network: (test, training) error on CIFAR-10 after 64,000 iterations
FIGURE_1 = {"plain20": (9.7, 1.4), "plain56": (13.2, 5.9)}

# Figure 6, network: (test, training) error on CIFAR-10 after 64,000 iterations
FIGURE_6 = {
    "plain20": (9.7, 1.4),
    "plain32": (10.1, 1.1),
    "plain44": (11.4, 3.0),
    "plain56": (13.2, 5.9),
    "resnet20": (8.8, 0.8),
    "resnet32": (7.5, 0.25),
    "resnet44": (7.1, 0.15),
    "resnet56": (7.0, 0.1),
    "resnet110": (6.5, 0.1),  # its training error is below 0.1
    "resnet1202": (7.9, 0.1),  # its training error is below 0.1
}

# Figure 6, network: the test error is above this, so the curve is not drawn
FIGURE_6_NOT_DRAWN = {"plain110": 60.0}

# Figure 7, network: ranges (low, high) of the standard deviations of its layer responses, read off:
# of the first layer, of most layers, and of the last layer, where they can be told
FIGURE_7: dict[str, dict[str, tuple[float, float]]] = {
    "plain20": {"first": (1.7, 2.1), "most": (1.3, 2.1)},
    "plain56": {
        "first": (3.0, 3.4),
        "first 25": (1.6, 2.4),
        "last": (1.0, 1.2),
    },
    "resnet20": {"first": (1.7, 2.1), "most": (1.2, 2.1), "last": (2.5, 2.5)},
    "resnet56": {"first": (3.0, 3.4), "most": (0.75, 1.4), "last": (1.6, 1.6)},
    "resnet110": {"first": (3.0, 3.4), "most": (0.7, 1.2), "last": (1.65, 1.65)},
}

# Figure 4, network: (validation, training) error on ImageNet where the curves end, at about 550,000
# iterations, read off; the validation error is of the centre crop
FIGURE_4 = {
    "plain18": (31.4, 31.5),
    "plain34": (32.4, 33.0),
    "resnet18-A": (31.0, 30.0),
    "resnet34-A": (28.2, 24.7),
}

# Table 7, network: mAP in percent on the test sets of VOC 2007 and VOC 2012, baseline Faster R-CNN
TABLE_7 = {"VGG-16": (73.2, 70.4), "ResNet-101": (76.4, 73.8)}

# Table 8, network: mAP in percent on COCO val, at an IoU of .5 and over [.5, .95], baseline
TABLE_8 = {"VGG-16": (41.5, 21.2), "ResNet-101": (48.4, 27.2)}

# Table 9, system: mAP in percent at .5 and over [.5, .95], on COCO val and then on test-dev
TABLE_9: dict[str, tuple[float | None, float | None, float | None, float | None]] = {
    "baseline VGG-16": (41.5, 21.2, None, None),
    "baseline ResNet-101": (48.4, 27.2, None, None),
    "+ box refinement": (49.9, 29.9, None, None),
    "+ context": (51.1, 30.0, 53.3, 32.2),
    "+ multi-scale testing": (53.8, 32.5, 55.7, 34.9),
    "ensemble": (None, None, 59.0, 37.4),
}

# Tables 10 and 11 have AP in percent for each class of VOC, in this order
VOC = (
    *("aero", "bike", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("table", "dog", "horse", "mbike", "person", "plant", "sheep", "sofa", "train", "tv"),
)

# Table 10, system: mAP and then AP of each class in percent, VOC 2007 test
TABLE_10 = {
    "baseline, VGG-16": (
        73.2,
        *(76.5, 79.0, 70.9, 65.5, 52.1, 83.1, 84.7, 86.4, 52.0, 81.9),
        *(65.7, 84.8, 84.6, 77.5, 76.7, 38.8, 73.6, 73.9, 83.0, 72.6),
    ),
    "baseline, ResNet-101": (
        76.4,
        *(79.8, 80.7, 76.2, 68.3, 55.9, 85.1, 85.3, 89.8, 56.7, 87.8),
        *(69.4, 88.3, 88.9, 80.9, 78.4, 41.7, 78.6, 79.8, 85.3, 72.0),
    ),
    "baseline+++, ResNet-101": (
        85.6,
        *(90.0, 89.6, 87.8, 80.8, 76.1, 89.9, 89.9, 89.6, 75.5, 90.0),
        *(80.7, 89.6, 90.3, 89.1, 88.7, 65.4, 88.1, 85.6, 89.0, 86.8),
    ),
}

# Table 11, system: mAP and then AP of each class in percent, VOC 2012 test
TABLE_11 = {
    "baseline, VGG-16": (
        70.4,
        *(84.9, 79.8, 74.3, 53.9, 49.8, 77.5, 75.9, 88.5, 45.6, 77.1),
        *(55.3, 86.9, 81.7, 80.9, 79.6, 40.1, 72.6, 60.9, 81.2, 61.5),
    ),
    "baseline, ResNet-101": (
        73.8,
        *(86.5, 81.6, 77.2, 58.0, 51.0, 78.6, 76.6, 93.2, 48.6, 80.4),
        *(59.0, 92.1, 85.3, 84.8, 80.7, 48.1, 77.3, 66.5, 84.7, 65.6),
    ),
    "baseline+++, ResNet-101": (
        83.8,
        *(92.1, 88.4, 84.8, 75.9, 71.4, 86.3, 87.8, 94.2, 66.8, 89.4),
        *(69.2, 93.9, 91.9, 90.9, 89.6, 67.9, 88.2, 76.8, 90.3, 80.0),
    ),
}
