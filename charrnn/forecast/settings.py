"""How to forecast and how to learn it (`Settings`), and what a kept model says besides its weights (`Header`)."""

from dataclasses import dataclass
from typing import ClassVar

from charrnn.errors import CharrnnError
from charrnn.network.cells import CELLS, Shape, layer_shapes

LARGEST = {"window": 65536, "horizon": 65536, "num_layers": 16, "hidden_size": 1024, "steps": 10**9}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of the command. Raises: CharrnnError for a value that can't be used."""

    KEYS: ClassVar = {"num_layers": "layers"}  # a name in files and flags that is not the field's

    window: int = 7  # rows that a forecast is made from
    horizon: int = 1  # rows ahead that it is made for
    cell: str = "lstm"
    num_layers: int = 1  # 0: a linear function of the window's last row
    hidden_size: int = 10
    steps: int = 500
    learning_rate: float = 0.01
    validation: float = 0.3  # the share of the rows, the last ones, that is held out
    seed: int = 0

    def __post_init__(self) -> None:
        for name, most in LARGEST.items():
            value, least = getattr(self, name), int(name != "num_layers")
            if not least <= value <= most:
                flag = self.KEYS.get(name, name).replace("_", "-")
                raise CharrnnError(f"--{flag} {value} is not between {least} and {most}")
        if self.cell not in CELLS:
            raise CharrnnError(f"--cell {self.cell} is none of {', '.join(CELLS)}")
        if not 0 < self.learning_rate <= 10:
            raise CharrnnError(f"--learning-rate {self.learning_rate} is not in (0, 10]")
        if not 0 <= self.validation < 1:
            raise CharrnnError(f"--validation {self.validation:g} is not at least 0 and below 1")
        if not 0 <= self.seed < 2**63:
            raise CharrnnError(f"--seed {self.seed} is not between 0 and {2**63 - 1}")

    def training_rows(self, rows: int) -> int:
        """How many of so many rows, the first ones, are for training."""
        return rows - round(rows * self.validation)


@dataclass(frozen=True, kw_only=True)
class Header:
    """All of a forecaster but its weights. `low` and `span` scale its D inputs and, last, the target.

    Raises: ValueError where they don't fit together.
    """

    columns: list[str]  # the names of the inputs
    target: str
    low: list[float]  # the least value of each in the training rows
    span: list[float]  # from there to the largest
    change: float  # the unit in which the network says how the target changes
    settings: Settings

    def __post_init__(self) -> None:
        if not 0 < len(self.columns) == len(self.low) - 1 == len(self.span) - 1:
            raise ValueError("its columns and scaling don't fit together")
        if min(self.span) <= 0 or self.change <= 0:
            raise ValueError("its scaling divides by what is not above 0")

    def shapes(self) -> dict[str, Shape]:
        """The name and shape of each tensor of the network."""
        D, L, H = len(self.columns), self.settings.num_layers, self.settings.hidden_size
        head: dict[str, Shape] = {"head.weight": (1, H if L else D), "head.bias": (1,)}
        return head | layer_shapes(self.settings.cell, num_layers=L, inputs=D, hidden_size=H)
