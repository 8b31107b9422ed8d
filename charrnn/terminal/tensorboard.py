"""Write event files for TensorBoard (an extra) to a run's folder.

A resumed run adds a file that starts with the step it continues from, so that TensorBoard drops later steps of earlier files.
"""

import os
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from tensorboard.compat.proto import event_pb2
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from charrnn.terminal.output import write_line
from charrnn.text.visible import make_visible
from charrnn.training.events import Event, Progress, Replan, Setback, Validation

EVERY = 1.0  # seconds between two values of the training loss


class Board(AbstractContextManager["Board"]):
    """A context manager that writes the event file of a session. If writing fails, it warns once and stops writing."""

    def __init__(self, folder: Path, step: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}.{step}"
        self._due = 0.0
        self._file = open(folder / name, "wb", buffering=0)  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._write(event_pb2.Event(file_version="brain.Event:2"))
        self._write_start(step)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, event: Event) -> None:
        match event:
            case Setback(step=step) | Replan(step=step):
                self._write_start(step)
            case Validation(metrics=metrics):
                bits = {"train": metrics.train_bits_per_character, "validation": metrics.validation_bits_per_character}
                values = {f"bits_per_character/{name}": n for name, n in bits.items() if n is not None}
                code = "\n".join(f"    {line}" for line in make_visible(metrics.sample or "").split("\n"))  # in Markdown
                values["learning_rate"] = metrics.learning_rate
                self._write_values(metrics.step, values, text_pb("sample", code).value)
            case Progress() if time.monotonic() >= self._due:
                self._due = time.monotonic() + EVERY
                rates = {"learning_rate": event.learning_rate, "characters_per_second": event.characters_per_second}
                self._write_values(event.step, {"bits_per_character/train": event.train_bits} | rates)

    def _write_start(self, step: int) -> None:
        self._write(event_pb2.Event(step=step + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START)))

    def _write_values(self, step: int, scalars: Mapping[str, float], texts: Iterable[Summary.Value] = ()) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(event_pb2.Event(step=step, summary=Summary(value=[*values, *texts])))

    def _write(self, event: event_pb2.Event) -> None:
        if self._file.closed:
            return
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            write_line(f"warning: {self._file.name} can't be written any more: {error.strerror or error}")
            self._file.close()
