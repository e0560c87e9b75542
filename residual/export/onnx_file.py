"""Opens an ONNX model that `residual export` wrote: a session and its metadata."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residual.export.graph import MISSING, installed, open_session
from residual.storage import check_format, damage_errors


@dataclass(frozen=True)
class OnnxFile:
    """A session of ONNX Runtime on the CPU, and the metadata of its file, as JSON."""

    path: Path
    session: Any  # of type onnxruntime.InferenceSession
    texts: dict[str, str]

    def __getitem__(self, key: str) -> Any:
        """A value of the metadata. Raises ValueError if it is absent or damaged."""
        with damage_errors(self.path):
            if key not in self.texts:
                raise ValueError(f"{self.path} has no {key} in its metadata")
            return json.loads(self.texts[key])

    @property
    def detects(self) -> bool:
        """Whether it is a detector."""
        return "task" in self.texts and bool(self["task"] == "detection")


def open_file(path: Path, threads: int) -> OnnxFile:
    """The model of a file. Raises FileNotFoundError, and ValueError for any other file."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if not installed():
        raise ValueError(f"ONNX Runtime {MISSING}")
    try:
        session = open_session(path.read_bytes(), {}, threads)
    except Exception as error:  # ONNX Runtime has an exception for each kind of damage
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged or is no ONNX model: {reason}") from error
    texts = session.get_modelmeta().custom_metadata_map
    if "format" not in texts:
        raise ValueError(f"{path} was not written by residual export")
    file = OnnxFile(path, session, texts)
    check_format(path, file["format"])
    return file
