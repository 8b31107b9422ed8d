"""The table of cell kinds: all that distinguishes LSTM, GRU and RNN except their arithmetic.

The torch network, the NumPy engine, the check of a checkpoint's tensors, the ONNX export and the forecaster use it.
Symbols: D input size of a layer, H hidden size, x the input at a time step, h the hidden state before it.
"""

from dataclasses import dataclass

WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")  # the tensors of a layer, named as in torch

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of cell. Each weight matrix and bias has H rows per gate."""

    gates: tuple[str, ...]  # in the order of the rows in torch and in checkpoints
    states: tuple[str, ...] = ("h",)  # carried to the next time step, each (B, H); the first is the output
    forget_gate: str | None = None  # its input bias starts at 1
    blocks: tuple[tuple[str, str], ...]  # rows of the NumPy engine, H each: the gate, and its inputs (x, h or both)
    sigmoids: int  # how many of `blocks`, from the first, go through a sigmoid
    onnx_gates: tuple[str, ...] | None = None  # in ONNX's order; None if ONNX has no such operator

    @property
    def split_gates(self) -> tuple[str, ...]:
        """Gates whose W_hh h + b_hh is scaled before W_ih x + b_ih is added (the GRU's new gate)."""
        return tuple(gate for gate in self.gates if (gate, "h") in self.blocks)

    @property
    def late_gates(self) -> tuple[str, ...]:
        """Gates that multiply a function of h and other gates instead of h itself."""
        return tuple(gate for gate in self.gates if not {(gate, "h"), (gate, "xh")} & set(self.blocks))

    def shapes(self, inputs: int, hidden_size: int) -> dict[str, Shape]:
        """The names and shapes of the tensors of a layer with D `inputs`."""
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
    """The names and shapes of the tensors of stacked layers; the first layer has D `inputs`."""
    return {
        f"layers.{i}.{name}": shape
        for i in range(num_layers)
        for name, shape in CELLS[cell].shapes(hidden_size if i else inputs, hidden_size).items()
    }


def describe_layers(cell: str, num_layers: int, hidden_size: int) -> str:
    """Describe stacked layers in words.

    >>> describe_layers("lstm", num_layers=2, hidden_size=256)
    '2-layer LSTM, 256 units'
    """
    return f"{num_layers}-layer {cell.upper()}, {hidden_size} units" if num_layers else "softmax layer alone"
