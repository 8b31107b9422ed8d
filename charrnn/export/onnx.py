"""A model as an ONNX graph, which other programs run; built from the arrays of its file, without torch.

Inputs: `ids` (T, B) int64, and a tensor of all layers for each kind of state, `h` (L, B, H) and, with lstm, `c` (L, B, H).
Outputs: `logits` (T, B, V), and `h_out`, `c_out` to pass in with the next ids. T and B are free; a text starts from zeros.
Letters: T time steps, B streams, L layers, H hidden size, V vocabulary, E embedding size.
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
from charrnn.network.cells import CELLS, WEIGHTS
from charrnn.network.config import Config
from charrnn.version import __version__

OPSET = 17  # of ONNX: old enough for the runtimes of 2022
IR = 8
LARGEST = 2**31 - 2**16  # bytes that one such file can have


class GraphBuilder:
    """The nodes and constants of a graph as it grows."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an array; return its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its first output."""
        self.nodes.append(helper.make_node(operator, list(inputs), list(outputs), **attributes))
        return outputs[0]


def to_onnx(tensors: Tensors, header: ModelHeader) -> bytes:
    """The ONNX file of a model. Raises: CharrnnError (status 1) where ONNX lacks its kind of cell, or it is too large."""
    config = header.config
    V, L = config.vocabulary_size, config.num_layers
    cell = CELLS[config.cell]
    if L and cell.onnx_gates is None:
        raise CharrnnError(f"ONNX has no operator for the cell {config.cell}", 1)
    if sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
        raise CharrnnError("the model has more than the 2 GiB that an ONNX file can hold", 1)
    graph = GraphBuilder()
    states = cell.states if L else ()
    x = _add_input(graph, tensors, config)
    for state in states:
        graph.node("Split", [state], *(f"{state}_{i}" for i in range(L)), axis=0)
    if L:
        graph.constant("direction", np.array([1]))
    for i in range(L):
        out = _add_layer(graph, tensors, config=config, i=i, x=x)
        x = graph.node("Add", [x, out], f"sum_{i}") if i and config.residual else out
    for state in states:
        graph.node("Concat", [f"{state}_{i}_out" for i in range(L)], f"{state}_out", axis=0)
    columns = graph.constant("softmax", tensors["softmax.weight"].T)
    one_hot = not (L or config.embedding_size)  # then the product is a look-up
    product = graph.node("Gather", [columns, x], "product") if one_hot else graph.node("MatMul", [x, columns], "product")
    graph.node("Add", [product, graph.constant("bias", tensors["softmax.bias"])], "logits")
    shape: list[str | int] = [L, "B", config.hidden_size]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["T", "B"])]
    inputs += [helper.make_tensor_value_info(state, TensorProto.FLOAT, shape) for state in states]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["T", "B", V])]
    outputs += [helper.make_tensor_value_info(f"{state}_out", TensorProto.FLOAT, shape) for state in states]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "charrnn", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="charrnn",
        producer_version=__version__,
    )
    facts: dict[str, object] = {"vocabulary": header.vocabulary, "start": header.start, "records": header.records}
    facts |= {"unknown": header.unknown or None, "config": dataclasses.asdict(config)}
    helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items() if fact is not None})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _add_input(graph: GraphBuilder, tensors: Tensors, config: Config) -> str:
    """What the first layer reads: embeddings or one-hot vectors (T, B, E or V), or, for the softmax alone on these, the ids."""
    if config.embedding_size:
        return graph.node("Gather", [graph.constant("embedding", tensors["embedding.weight"]), "ids"], "x")
    if not config.num_layers:
        return "ids"
    depth = graph.constant("V", np.array(config.vocabulary_size))
    return graph.node("OneHot", ["ids", depth, graph.constant("off_on", np.array([0, 1], np.float32))], "x")


def _add_layer(graph: GraphBuilder, tensors: Tensors, config: Config, i: int, x: str) -> str:
    """Layer `i`, which reads `x`: the name of its hidden states (T, B, H)."""
    cell = CELLS[config.cell]
    order = [cell.gates.index(gate) for gate in cell.onnx_gates or ()]
    w_ih, w_hh, b_ih, b_hh = (
        np.concatenate([np.split(tensors[f"layers.{i}.{name}"], len(order))[k] for k in order]) for name in WEIGHTS
    )
    weights = {"W": w_ih, "R": w_hh, "B": np.concatenate([b_ih, b_hh])}
    inputs = [x, *(graph.constant(f"{name}_{i}", value[None]) for name, value in weights.items()), ""]
    states = [f"{state}_{i}" for state in cell.states]
    split = {"linear_before_reset": 1} if cell.split_gates else {}
    names = [f"all_{i}", *(f"{state}_out" for state in states)]
    out = graph.node(config.cell.upper(), inputs + states, *names, hidden_size=config.hidden_size, **split)
    return graph.node("Squeeze", [out, "direction"], f"read_{i}")  # (T, 1, B, H) -> (T, B, H)
