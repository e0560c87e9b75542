"""What each table and figure of the paper claims, in words; every number comes from paper.py."""

from dataclasses import dataclass

from residual.reproduction import paper


@dataclass(frozen=True)
class Claim:
    """The content of a page that does not depend on results."""

    title: str
    text: str
    commands: tuple[str, ...]
    networks: tuple[str, ...] = ()  # of a figure that shows architectures; nothing is trained
    sources: tuple[str, ...] = ()  # files of the package whose choices apply; or FILE#CONSTANT


NETS = ("models/blocks.py", "models/resnet.py")
TRAINING = (
    *(*NETS, "tasks/classification/loop.py", "data/normalization.py"),
    "data/augment.py#PAD_TOP",
)
LARGE = (*TRAINING, "tasks/classification/recipe.py#IMAGENET", "data/loader.py", "data/decode.py")
CIFAR = (
    *TRAINING,
    "tasks/classification/recipe.py#CIFAR",
    "tasks/classification/recipe.py#CIFAR_DEEP",
    "data/datasets.py",
)
JUDGED = (*LARGE, "tasks/classification/protocols.py")
BASELINE_RECIPES = "tasks/classification/baseline_recipes.py"
CIFAR_BASELINES = (
    *(f"{BASELINE_RECIPES}#{name}" for name in ("MAXOUT", "DSN", "FITNET")),
    *(f"models/baselines/{name}.py" for name in ("maxout_fitnet", "nin_dsn", "highway")),
)
IMAGENET_BASELINES = (
    *(f"{BASELINE_RECIPES}#{name}" for name in ("VGG", "GOOGLENET", "BN_INCEPTION", "PRELU_NET")),
    *(f"models/baselines/{name}.py" for name in ("layers", "vgg", "inception")),
)
BOXES = tuple(
    f"tasks/detection/{name}.py"
    for name in ("recipe", "faster_rcnn", "boxes", "losses", "loader", "metrics")
)
IMAGENET = "residual data prepare imagenet SOURCE"
READ_OFF = (
    f"The curves' ends are read off the plot, with an error of up to {paper.READING_ERROR:g}."
)

(_P18, _R18), (_P34, _R34) = paper.TABLE_2[18], paper.TABLE_2[34]
_T3, _T4, _T6 = paper.TABLE_3, paper.TABLE_4, paper.TABLE_6
_F1, _F4, _F6 = paper.FIGURE_1, paper.FIGURE_4, paper.FIGURE_6
_BEST_BEFORE = min(e for name, e in paper.TABLE_5.items() if not name.startswith("ResNet"))
_ENSEMBLE = paper.TABLE_5["ResNet (ILSVRC'15)"]
_VGG_7, _RES_7 = paper.TABLE_7.values()
_VGG_8, _RES_8 = paper.TABLE_8.values()
_T9 = tuple(paper.TABLE_9.values())
_, _BASE_10, _BEST_10 = paper.TABLE_10.values()
_, _BASE_11, _BEST_11 = paper.TABLE_11.values()

CLAIMS = {
    "table1": Claim(
        "Table 1: the ImageNet networks",
        f"Networks of {min(paper.TABLE_1)} to {max(paper.TABLE_1)} layers follow one plan. The "
        f"shallowest costs {paper.TABLE_1[18] / 1e9:.1f}e9 multiply-adds for an image of 224x224, "
        f"the deepest {paper.TABLE_1[152] / 1e9:.1f}e9.",
        ("residual reproduce table1", "residual describe resnet50"),
        sources=NETS,
    ),
    "table2": Claim(
        "Table 2: plain and residual networks on ImageNet",
        f"A plain network of 34 layers is worse than one of 18: {_P34:.2f} against {_P18:.2f} % "
        f"top-1 error by ten crops. With shortcuts that add no parameter (option A) it is better: "
        f"{_R34:.2f} against {_R18:.2f} %, and {_P34 - _R34:.1f} points better than the plain one.",
        (IMAGENET, "residual reproduce table2 --data IMAGENET"),
        sources=JUDGED,
    ),
    "table3": Claim(
        "Table 3: shortcuts, and deeper networks on ImageNet",
        f"By ten crops, top-1. All three shortcuts beat the plain network of 34 layers "
        f"({_T3['plain-34'][0]:.2f} %): A {_T3['ResNet-34 A'][0]:.2f}, B "
        f"{_T3['ResNet-34 B'][0]:.2f}, C {_T3['ResNet-34 C'][0]:.2f} %; so projections are not "
        f"what matters. Depth helps further: {_T3['ResNet-50'][0]:.2f} % with 50 layers, "
        f"{_T3['ResNet-101'][0]:.2f} % with 101, {_T3['ResNet-152'][0]:.2f} % with 152.",
        (IMAGENET, "residual reproduce table3 --data IMAGENET"),
        sources=(*JUDGED, *IMAGENET_BASELINES),
    ),
    "table4": Claim(
        "Table 4: single networks on ImageNet",
        f"Tested fully convolutionally at five scales, a single network of 152 layers has a "
        f"top-5 error of {_T4['ResNet-152'][1]:.2f} %, less than every earlier ensemble "
        f"({_BEST_BEFORE:.2f} % or more, Table 5).",
        (IMAGENET, "residual reproduce table4 --data IMAGENET"),
        sources=(*JUDGED, *IMAGENET_BASELINES, "reproduction/tables.py#MODELS"),
    ),
    "table5": Claim(
        "Table 5: ensembles on ImageNet",
        f"An ensemble of six networks has a top-5 error of {_ENSEMBLE:.2f} % "
        f"on the test set; the best earlier one had {_BEST_BEFORE:.2f} %. The server with the "
        f"test labels is closed, so ours is on the validation set.",
        (IMAGENET, "residual reproduce table5 --data IMAGENET"),
        sources=(*JUDGED, "reproduction/tables.py#DEEPEST"),
    ),
    "table6": Claim(
        "Table 6: errors on CIFAR-10",
        f"From 20 to 110 layers the test error falls from {_T6[20][0]:.2f} to {_T6[110][0]:.2f} %; "
        f"with 1202 layers, far too many for so little data, it is {_T6[1202][0]:.2f} %.",
        ("residual reproduce table6 --data cifar10 --seeds 5",),
        sources=(*CIFAR, *CIFAR_BASELINES),
    ),
    "table7": Claim(
        "Table 7: detection on PASCAL VOC",
        f"Faster R-CNN gains {_RES_7[0] - _VGG_7[0]:.1f} points of mAP on VOC 2007 and "
        f"{_RES_7[1] - _VGG_7[1]:.1f} on VOC 2012 when ResNet-101 replaces VGG-16.",
        ("residual reproduce table7 --data VOCDEVKIT --weights VGG16 --weights RESNET101",),
        sources=(*BOXES, "reproduction/detection_tables.py#AREA"),
    ),
    "table8": Claim(
        "Table 8: detection on COCO",
        f"ResNet-101 in place of VGG-16 gains {_RES_8[0] - _VGG_8[0]:.1f} points at an IoU of .5, "
        f"and {_RES_8[1] - _VGG_8[1]:.1f} over [.5, .95], a relative gain of "
        f"{100 * (_RES_8[1] / _VGG_8[1] - 1):.0f} %.",
        ("residual reproduce table8 --data COCO --weights VGG16 --weights RESNET101",),
        sources=BOXES,
    ),
    "table9": Claim(
        "Table 9: detection on COCO, improved",
        f"Box refinement, context and multi-scale testing raise the mAP at an IoU of .5 on the "
        f"validation set from {_T9[1][0]} to {_T9[2][0]}, {_T9[3][0]} and {_T9[4][0]} %. On "
        f"test-dev an ensemble has {_T9[5][2]} %, a single network {_T9[4][2]} %.",
        ("residual reproduce table9 --data COCO --weights RESNET101",),
        sources=(
            *BOXES,
            "tasks/detection/inference.py",
            "reproduction/detection_tables.py#MEMBERS",
        ),
    ),
    "table10": Claim(
        "Table 10: detection on VOC 2007, by class",
        f"The improvements of Table 9 and pretraining on COCO raise the mAP of ResNet-101 from "
        f"{_BASE_10[0]} to {_BEST_10[0]} %.",
        ("residual reproduce table10 --data VOCDEVKIT --weights RESNET101",),
        sources=(*BOXES, "tasks/detection/inference.py", "reproduction/detection_tables.py#AREA"),
    ),
    "table11": Claim(
        "Table 11: detection on VOC 2012, by class",
        f"On VOC 2012 the improvements of Table 10 raise the mAP of ResNet-101 from {_BASE_11[0]} "
        f"to {_BEST_11[0]} %.",
        ("residual reproduce table11 --data VOCDEVKIT --weights RESNET101",),
        sources=(*BOXES, "tasks/detection/inference.py"),
    ),
    "figure1": Claim(
        "Figure 1: the degradation of plain networks",
        f"On CIFAR-10 a plain network of 56 layers ends worse than one of 20, on the test set "
        f"(about {_F1['plain56'][0]:g} against {_F1['plain20'][0]:g} %) and on the training set "
        f"(about {_F1['plain56'][1]:g} against {_F1['plain20'][1]:g} %), so it is not overfitting. "
        + READ_OFF,
        ("residual reproduce figure1 --data cifar10",),
        sources=CIFAR,
    ),
    "figure2": Claim(
        "Figure 2: the residual unit",
        "A block of layers learns F(x), and its input is added to the output: y = F(x) + x "
        "(Eq. 1). The unit is one class, `Residual` in `residual/models/blocks.py`; a plain "
        "network is the same class without its shortcut.",
        ("residual describe resnet18-A",),
        networks=("plain18", "resnet18-A"),
        sources=("models/blocks.py",),
    ),
    "figure3": Claim(
        "Figure 3: a plain network and its residual counterpart",
        "The same 34 layers without and with shortcuts. Dotted shortcuts increase the dimensions. "
        "`residual/models/resnet.py` builds both networks from one row of Table 1.",
        ("residual describe plain34", "residual describe resnet34-A"),
        networks=("plain34", "resnet34-A", "resnet34"),
        sources=NETS,
    ),
    "figure4": Claim(
        "Figure 4: training on ImageNet",
        f"The plain network of 34 layers has a higher error than the one of 18 throughout, in "
        f"training too. For residual networks it is the reverse: the centre-crop error ends at "
        f"about {_F4['resnet34-A'][0]:g} against {_F4['resnet18-A'][0]:g} %. " + READ_OFF,
        (IMAGENET, "residual reproduce figure4 --data IMAGENET"),
        sources=LARGE,
    ),
    "figure5": Claim(
        "Figure 5: the two blocks",
        "A block has two 3x3 layers; a bottleneck block has a 1x1 layer that reduces the "
        "dimensions, a 3x3 layer, and a 1x1 layer that restores them, at a similar cost. They are "
        "`basic` and `bottleneck` in `residual/models/blocks.py`.",
        ("residual describe resnet34", "residual describe resnet50"),
        networks=("resnet34", "resnet50"),
        sources=NETS,
    ),
    "figure6": Claim(
        "Figure 6: plain and residual networks on CIFAR-10",
        f"Plain networks get worse with depth: about {_F6['plain20'][0]:g} % test error with 20 "
        f"layers, {_F6['plain56'][0]:g} with 56. Residual networks get better, up to 110 layers: "
        f"about {_F6['resnet20'][0]:g} % with 20, {_F6['resnet110'][0]:g} with 110. " + READ_OFF,
        ("residual reproduce figure6 --data cifar10",),
        sources=CIFAR,
    ),
    "figure7": Claim(
        "Figure 7: layer responses",
        "The 3x3 layers of residual networks have smaller responses than those of plain networks, "
        "and deeper residual networks have smaller ones still: a block changes its input little.",
        ("residual reproduce figure7 --data cifar10", "residual responses RUN"),
        sources=(*CIFAR, "analysis/responses.py"),
    ),
}
