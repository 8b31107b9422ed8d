"""Export a model as an ONNX graph, without torch.

Inputs: `ids` (T, B) int64, and the state `h` (L, B, H) and, for an LSTM, `c` (L, B, H), zeros at the start of a text.
Outputs: `logits` (T, B, V), and `h_out`, `c_out` to pass in with the next ids. T and B are dynamic.
Shapes: T time steps, B batch size, L layers, H hidden size, V vocabulary size, E embedding size.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from charrnn.checkpoint import Tensors
from charrnn.errors import CharrnnError
from charrnn.headers import ModelHeader
from charrnn.network.cells import CELLS, WEIGHTS, Cell
from charrnn.version import __version__

OPSET, IR = 17, 8  # ONNX versions, supported by runtimes since 2022
LARGEST = 2**31 - 2**16  # bytes of an ONNX file


class GraphBuilder:
    """Collects the nodes and constants of a graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an array. Returns: its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node. Returns: the name of its first output."""
        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), **attributes))
        return outputs[0]


def to_onnx(tensors: Tensors, header: ModelHeader) -> bytes:
    """Convert a model to an ONNX file. Raises: CharrnnError (status 1) if ONNX lacks its cell, or it is too large."""
    config = header.config
    V, L, H = config.vocabulary_size, config.num_layers, config.hidden_size
    cell = CELLS[config.cell]
    if L and cell.onnx_gates is None:
        raise CharrnnError(f"ONNX has no operator for the cell {config.cell}", 1)
    if sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
        raise CharrnnError("the model has more than the 2 GiB that an ONNX file can hold", 1)
    graph = GraphBuilder()
    states = cell.states if L else ()
    x = "ids"
    if config.embedding_size:
        x = graph.node("Gather", [graph.constant("embedding", tensors["embedding.weight"]), "ids"], "x")  # (T, B, E)
    elif L:
        depth = graph.constant("V", np.array(V))
        x = graph.node("OneHot", ["ids", depth, graph.constant("off_on", np.array([0, 1], np.float32))], "x")  # (T, B, V)
    for state in states:
        graph.node("Split", [state], *(f"{state}_{i}" for i in range(L)), axis=0)
    if L:
        graph.constant("direction", np.array([1]))
    attributes = {"linear_before_reset": 1} if cell.split_gates else {}
    for i in range(L):
        w_ih, w_hh, b_ih, b_hh = (_reorder(tensors[f"layers.{i}.{name}"], cell) for name in WEIGHTS)
        weights = {"W": w_ih, "R": w_hh, "B": np.concatenate([b_ih, b_hh])}
        names = [x, *(graph.constant(f"{name}_{i}", value[None]) for name, value in weights.items()), ""]
        names += [f"{state}_{i}" for state in states]
        after = [f"{state}_{i}_out" for state in states]
        every = graph.node(config.cell.upper(), names, f"all_{i}", *after, hidden_size=H, **attributes)
        out = graph.node("Squeeze", [every, "direction"], f"read_{i}")  # (T, 1, B, H) -> (T, B, H)
        x = graph.node("Add", [x, out], f"sum_{i}") if i and config.residual else out
    for state in states:
        graph.node("Concat", [f"{state}_{i}_out" for i in range(L)], f"{state}_out", axis=0)
    columns = graph.constant("softmax", tensors["softmax.weight"].T)
    one_hot = x == "ids"  # the product with a one-hot vector is a look-up
    product = graph.node("Gather", [columns, x], "product") if one_hot else graph.node("MatMul", [x, columns], "product")
    graph.node("Add", [product, graph.constant("bias", tensors["softmax.bias"])], "logits")
    tensor = helper.make_tensor_value_info
    inputs = [tensor("ids", TensorProto.INT64, ["T", "B"])]
    inputs += [tensor(state, TensorProto.FLOAT, [L, "B", H]) for state in states]
    outputs = [tensor("logits", TensorProto.FLOAT, ["T", "B", V])]
    outputs += [tensor(f"{state}_out", TensorProto.FLOAT, [L, "B", H]) for state in states]
    onnx_graph = helper.make_graph(graph.nodes, "charrnn", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        onnx_graph, opset_imports=opsets, ir_version=IR, producer_name="charrnn", producer_version=__version__
    )
    facts: dict[str, object] = {"vocabulary": header.vocabulary, "start": header.start, "records": header.records}
    facts |= {"unknown": header.unknown or None, "config": dataclasses.asdict(config)}
    helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items() if fact is not None})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _reorder(weight: np.ndarray, cell: Cell) -> np.ndarray:
    """Reorder the rows of `weight` (gates * H, ...) to the order of ONNX's gates."""
    blocks = dict(zip(cell.gates, np.split(weight, len(cell.gates)), strict=True))
    return np.concatenate([blocks[gate] for gate in cell.onnx_gates or ()])
