"""The table of cell kinds: all that distinguishes one kind of recurrent cell from another, but for its arithmetic.

The torch network, the NumPy engine, the check of a checkpoint's tensors, the ONNX export and the forecaster read it.
Letters: H hidden size, D inputs of a layer.
"""

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One kind of cell. Its weights are stacked by gate, H rows for each, in the order of torch's modules."""

    gates: int  # blocks of H rows in its matrices and biases
    states: tuple[str, ...]  # what it carries from one step to the next, each (B, H); the first is its output

    def shapes(self, layer: int, inputs: int, hidden_size: int) -> dict[str, Shape]:
        """The name and shape of each tensor of layer number `layer`, which reads D `inputs`."""
        rows = self.gates * hidden_size
        return {
            f"layers.{layer}.weight_ih_l0": (rows, inputs),
            f"layers.{layer}.weight_hh_l0": (rows, hidden_size),
            f"layers.{layer}.bias_ih_l0": (rows,),
            f"layers.{layer}.bias_hh_l0": (rows,),
        }


CELLS: dict[str, Cell] = {
    "lstm": Cell(gates=4, states=("h", "c")),
    "gru": Cell(gates=3, states=("h",)),
    "rnn": Cell(gates=1, states=("h",)),
}
