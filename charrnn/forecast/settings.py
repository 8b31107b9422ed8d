"""The options of a forecast, kept with its model. This module does not import torch: bad values are reported at once."""

from dataclasses import dataclass
from typing import ClassVar

from charrnn.errors import CharrnnError
from charrnn.network.cells import CELLS
from charrnn.options import one_of

LARGEST = {"window": 65536, "horizon": 65536, "num_layers": 16, "hidden_size": 1024, "steps": 10**9}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of the command. Raises: CharrnnError for bad values."""

    KEYS: ClassVar = {"num_layers": "layers"}  # fields that have another name in files and flags

    window: int = 7  # input rows of a forecast
    horizon: int = 1  # rows ahead to forecast
    cell: str = "lstm"
    num_layers: int = 1  # 0: a linear function of the window's last row
    hidden_size: int = 10
    steps: int = 500
    learning_rate: float = 0.01
    validation: float = 0.3  # fraction of the rows, at the end, that is held out
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value, least = getattr(self, name), int(name != "num_layers")
            if not least <= value <= most:
                flag = self.KEYS.get(name, name).replace("_", "-")
                raise CharrnnError(f"--{flag} must be between {least} and {most}, not {value}")
        if self.cell not in CELLS:
            raise CharrnnError(f"--cell must be {one_of(tuple(CELLS))}, not {self.cell!r}")
        if not 0 < self.learning_rate <= 10:
            raise CharrnnError(f"--learning-rate must be above 0 and at most 10, not {self.learning_rate}")
        if not 0 <= self.validation < 1:
            raise CharrnnError(f"--validation must be at least 0 and below 1, not {self.validation:g}")
        if not 0 <= self.seed < 2**63:
            raise CharrnnError(f"--seed must be between 0 and {2**63 - 1}, not {self.seed}")

    def training_rows(self, rows: int) -> int:
        """The number of training rows, which are the first of `rows` rows."""
        return rows - round(rows * self.validation)
