"""Claims of trainings that are processes of their own: signals."""

import os
import signal
from types import SimpleNamespace

import pytest

from residual.cli import reproduce


class Saving:
    """A training that still saves, and writes, when the second signal comes."""

    returncode = None

    def __init__(self, stderr) -> None:
        self.stderr, self.signals = stderr, []

    def poll(self) -> None:
        return None

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    def wait(self) -> None:
        raise KeyboardInterrupt


def test_a_second_signal_ends_the_command_and_the_training_goes_on_saving(monkeypatch, tmp_path):
    reading, writing = os.pipe()
    training = Saving(os.fdopen(reading))
    monkeypatch.setattr(reproduce, "start_resume", lambda run, pipe: training)
    once = SimpleNamespace(sleep=lambda _: signal.raise_signal(signal.SIGTERM))
    monkeypatch.setattr(reproduce, "time", once)
    with pytest.raises(KeyboardInterrupt):
        reproduce.ProgressDisplay(1, True).resume([tmp_path / "run"], 1)
    assert training.signals == [signal.SIGTERM]
    os.close(writing)
