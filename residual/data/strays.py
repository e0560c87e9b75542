"""What lies in a folder of classes and is no picture: other files, annotations, boxes."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from residual.data.filenames import is_hidden, is_picture, lines_of, shown

# Folders beside each other in data for other tasks, in lower case: pictures, and what is said of
# them. As classes, a network would learn to tell the one from the other.
PICTURES = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos")
ANNOTATIONS = (
    *("annotations", "annotation", "annots", "annot", "anno", "labels", "label", "imagesets"),
    *("bboxes", "bbox", "boxes", "xml", "xmls", "masks", "mask", "trimaps", "segmentations"),
)
START = 1 << 20  # bytes of a file that are searched for boxes
SOME = 3  # files of a folder, at most, that are searched for boxes
MOST = 5  # kinds of files, at most, that are named
YOLO = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}", re.IGNORECASE)


@dataclass
class LeftOut:
    """What is not taken for pictures: how many there are of each kind, and the first of them."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)  # kind: path below the folder

    def note(self, kind: str, path: str) -> None:
        self.counts[kind] += 1
        self.first[kind] = min(path, self.first.get(kind, path))  # in whatever order they come

    def file(self, name: str, path: str) -> None:
        """A file that is no picture. Of hidden ones only those count that are called like one."""
        if not is_hidden(name):
            suffix = Path(name).suffix.lower()
            self.note(f"{suffix} files" if suffix else "files without a suffix", path)
        elif is_picture(name.lstrip("._")):
            self.note("hidden pictures", path)

    def sentences(self, folder: Path) -> Iterator[str]:
        """One that names it all, if there is anything, and one more if some of it are boxes."""
        if not self.counts:
            return
        kinds = [
            f"{shown(kind)} ({n:,}, such as {shown(self.first[kind])})"
            for kind, n in self.counts.most_common(MOST)
        ]
        rest = sum(self.counts.values()) - sum(n for _, n in self.counts.most_common(MOST))
        others = f", and {rest:,} others" if rest else ""
        yield f"left out of {shown(folder.name)}: {', '.join(kinds)}{others}"
        for path in self.first.values():
            if form := form_of(folder / path):
                yield f"{shown(path)} holds boxes in {form}'s form; {advice(form)}"
                return


def form_of(file: Path) -> str:
    """The form of the boxes in a file, as far as its start tells; "" where it has none."""
    kind = file.suffix.lower()
    if kind not in (".xml", ".json", ".txt", "") or not file.is_file():
        return ""
    try:
        with file.open("rb") as opened:
            start = opened.read(START)
    except OSError:
        return ""
    if kind == ".json":
        listed = b'"images"' in start and b'"file_name"' in start
        return "COCO" if listed or b'"bbox"' in start else ""
    if kind == ".txt":
        lines = list(lines_of(start[:10_000]))[:SOME]
        return "YOLO" if lines and all(map(YOLO.fullmatch, lines)) else ""
    return "PASCAL VOC" if b"<annotation" in start else ""


def advice(form: str) -> str:
    """How to learn from boxes of a form. Those of YOLO are not read."""
    first = "convert them to COCO's or PASCAL VOC's and " if form == "YOLO" else ""
    return f"{first}learn from boxes with: residual detect train NETWORK --data FOLDER"


def boxes_said(folder: Path) -> str:
    """The end of a sentence that names boxes in a folder and the command for them; or nothing."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        others = (name for name in sorted(files) if not is_picture(name) and not is_hidden(name))
        for _, name in zip(range(SOME), others, strict=False):
            if form := form_of(Path(root, name)):
                path = Path(root, name).relative_to(folder)
                return f"; it holds boxes in {form}'s form, such as {shown(path)}: {advice(form)}"
    return ""


def refuse_annotations(folder: Path, names: tuple[str, ...]) -> None:
    """Raises ValueError where the folders in a folder are pictures and what is said of them."""
    pictures = [name for name in names if name.lower() in PICTURES]
    annotations = [name for name in names if name.lower() in ANNOTATIONS]
    if pictures and annotations:
        said = boxes_said(folder) or "; classes need one folder of pictures each"
        raise ValueError(
            f"{shown(folder)} has no class folders: {pictures[0]}/ and {annotations[0]}/ are "
            f"pictures and annotations of them{said}"
        )
