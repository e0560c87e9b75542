"""The table of average precision of a detector, as text."""

from typing import Any

MEASURES = ("AP50-11pt", "AP50-area", "AP[.5:.95]")


def format_precision(result: dict[str, Any]) -> str:
    """A table of average precision in percent."""
    ap, testing = result["ap"], result["testing"]
    title = [" + ".join(result["networks"]), *["with box refinement"] * testing["refinement"]]
    title += [f"at sides {', '.join(map(str, testing['scales']))}"] if testing["scales"] else []
    widths = {name: max(8, len(name) + 2) for name in ap["AP50-area"]["classes"]}
    lines = [
        f"{', '.join(title)} on {result['data']['name']}: {ap['pictures']:,} pictures, "
        f"{ap['objects']:,} objects, {ap['detections']:,} boxes found, "
        f"{result['pictures_per_second']:.1f} pictures/s",
        f"average precision, %{'mean':>12}"
        + "".join(f"{name:>{width}}" for name, width in widths.items()),
    ]
    rows = {name: ap[name] for name in MEASURES}
    if ap["difficult"]:
        rows |= {f"{name}, difficult too": ap["difficult counted"][name] for name in MEASURES}

    def cell(percent: float | None) -> str:
        return "-" if percent is None else f"{percent:.2f}"  # a class without objects has no AP

    for name, row in rows.items():
        cells = (f"{cell(row['classes'][label]):>{width}}" for label, width in widths.items())
        lines.append(f"{name:<20}{cell(row['mean']):>10}{''.join(cells)}")
    return "\n".join(lines)
