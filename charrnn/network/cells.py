"""The table of cell kinds: everything that tells one kind of recurrent cell from another, except its arithmetic.

The torch network, the NumPy engine, the check of a checkpoint's tensors, the ONNX export and the forecaster read it.
Letters: D inputs of a layer, H hidden size, x the input of a step, h the hidden state before it.
"""

from dataclasses import dataclass

WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")  # of a layer, as torch names them

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of cell. Each of its weight matrices and biases has H rows for every gate."""

    gates: tuple[str, ...]  # in the order of the rows in the files, which is torch's
    states: tuple[str, ...] = ("h",)  # what a step hands to the next one, each (B, H); the first is the output
    forget_gate: str | None = None  # its input bias starts at 1
    blocks: tuple[tuple[str, str], ...]  # the NumPy engine's rows, H for each: a gate, and what they multiply: x, h or both
    sigmoids: int  # how many of `blocks`, from the first on, go through a sigmoid
    onnx_gates: tuple[str, ...] | None = None  # in ONNX's order; None if ONNX has no such operator

    @property
    def split_gates(self) -> tuple[str, ...]:
        """The gates whose product with h, bias included, is scaled before the product with x is added."""
        return tuple(gate for gate in self.gates if (gate, "h") in self.blocks)

    @property
    def late_gates(self) -> tuple[str, ...]:
        """The gates that don't multiply h itself, but something that the other gates make of it."""
        return tuple(gate for gate in self.gates if not {(gate, "h"), (gate, "xh")} & set(self.blocks))

    def shapes(self, inputs: int, hidden_size: int) -> dict[str, Shape]:
        """The name and shape of each tensor of a layer with D `inputs`."""
        G = len(self.gates) * hidden_size
        return dict(zip(WEIGHTS, ((G, inputs), (G, hidden_size), (G,), (G,)), strict=True))


CELLS: dict[str, Cell] = {
    "lstm": Cell(
        gates=("i", "f", "g", "o"),
        states=("h", "c"),
        forget_gate="f",
        blocks=(("i", "xh"), ("f", "xh"), ("o", "xh"), ("g", "xh")),
        sigmoids=3,
        onnx_gates=("i", "o", "f", "g"),
    ),
    "gru": Cell(
        gates=("r", "z", "n"), blocks=(("r", "xh"), ("z", "xh"), ("n", "h"), ("n", "x")), sigmoids=2, onnx_gates=("z", "r", "n")
    ),
    "rnn": Cell(gates=("h",), blocks=(("h", "xh"),), sigmoids=0, onnx_gates=("h",)),
}


def layer_shapes(cell: str, num_layers: int, inputs: int, hidden_size: int) -> dict[str, Shape]:
    """The name and shape of each tensor of stacked layers, the first of which has D `inputs`."""
    return {
        f"layers.{i}.{name}": shape
        for i in range(num_layers)
        for name, shape in CELLS[cell].shapes(hidden_size if i else inputs, hidden_size).items()
    }


def describe_layers(cell: str, num_layers: int, hidden_size: int) -> str:
    """Stacked layers, for people.

    >>> describe_layers("lstm", num_layers=2, hidden_size=256)
    '2-layer LSTM, 256 units'
    """
    return f"{num_layers}-layer {cell.upper()}, {hidden_size} units" if num_layers else "softmax layer alone"
