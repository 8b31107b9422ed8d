"""What a training run writes for TensorBoard, an extra: event files in the run's folder.

It is given the events of a run and writes their figures; it draws nothing. A resumed run adds a file to the others, whose
first word is the step that it goes on from: TensorBoard forgets what stood beyond.
"""

import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from charrnn.terminal import output
from charrnn.training.events import Progress, Setback, Validation

EVERY = 1.0  # seconds between two figures of the training text


class Board:
    """Writes the event file of one sitting of a run; use it as a context manager. What can't be written is told, once."""

    def __init__(self, folder: Path, step: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._due = 0.0
        self._file = open(folder / name, "wb", buffering=0)  # noqa: SIM115
        self._records = RecordWriter(self._file)
        self._write(Event(file_version="brain.Event:2"))
        self._write(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._file.close()

    def add(self, event: Progress | Validation | Setback, learning_rate: float) -> None:
        """Write what an event of `Run.events` says; `learning_rate` is the one now."""
        if isinstance(event, Validation):
            record = event.record
            figures = {"train": record["train_bits_per_character"], "validation": record["validation_bits_per_character"]}
            values = [_scalar(f"bits_per_character/{name}", bits) for name, bits in figures.items() if bits is not None]
            sample = text_pb("sample", "\n".join(f"    {line}" for line in output.printable(event.sample).split("\n")))
            self._add(record["step"], [*values, _scalar("learning_rate", record["learning_rate"]), *sample.value])
        elif isinstance(event, Progress) and time.monotonic() >= self._due:
            self._due = time.monotonic() + EVERY
            speed = _scalar("characters_per_second", event.characters_per_second)
            rate = _scalar("learning_rate", learning_rate)
            self._add(event.step, [_scalar("bits_per_character/train", event.train_bits), rate, speed])
        elif isinstance(event, Setback):
            self._write(Event(step=event.step + 1, session_log=SessionLog(status=SessionLog.START)))

    def _add(self, step: int, values: list[Summary.Value]) -> None:
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        if self._file.closed:
            return
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
        except OSError as error:
            output.write_line(f"warning: {self._file.name} can't be written any more: {error.strerror or error}")
            self._file.close()


def _scalar(tag: str, value: float) -> Summary.Value:
    return Summary.Value(tag=tag, simple_value=value)
