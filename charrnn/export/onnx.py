"""A model as an ONNX graph, which other programs run; built from the arrays of its file, without torch.

Inputs: `ids` (T, B) int64, and for each kind of state a tensor of all layers, `h` (L, B, H) and, with lstm, `c` (L, B, H).
Outputs: `logits` (T, B, V), and `h_out`, `c_out` to hand in with the next ids. T and B are free; zeros begin a text. Letters:
T time steps, B streams, L layers, H hidden size, V vocabulary, E embedding size.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import charrnn
from charrnn import checkpoint
from charrnn.errors import CharrnnError
from charrnn.network.engine import WEIGHTS

OPSET, IR = 17, 8  # of ONNX: old enough for the runtimes of 2022
LARGEST = 2**31 - 2**16  # bytes that one such file can have
# torch stacks a cell's gates as i f g o (lstm), r z n (gru); ONNX as i o f c, z r h.
GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


def to_onnx(tensors: checkpoint.Tensors, header: checkpoint.Header) -> bytes:
    """The ONNX file of a model that `checkpoint.read_model` gave. Raises: CharrnnError where it would be too large for one."""
    if sum(tensor.nbytes for tensor in tensors.values()) > LARGEST:
        raise CharrnnError("the model has more than the 2 GiB that an ONNX file can hold", 1)
    config = header["config"]
    cell, layers, H = config["cell"], config["num_layers"], config["hidden_size"]
    kinds = ("h", "c")[: 2 if cell == "lstm" else 1] if layers else ()
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), list(outputs), **attributes))
        return outputs[0]

    one_hot = "embedding.weight" not in tensors
    if not one_hot:
        x = node("Gather", [constant("embedding", tensors["embedding.weight"]), "ids"], "x")
    elif layers:
        depth = constant("V", np.array(config["vocabulary_size"]))
        x = node("OneHot", ["ids", depth, constant("off_on", np.array([0, 1], np.float32))], "x")
    for kind in kinds:
        node("Split", [kind], *(f"{kind}_{i}" for i in range(layers)), axis=0)
    if layers:
        axis = constant("direction", np.array([1]))
    for i in range(layers):
        w_ih, w_hh, b_ih, b_hh = (_gates(tensors[f"layers.{i}.{name}"], cell, H) for name in WEIGHTS)
        weights = {"W": w_ih, "R": w_hh, "B": np.concatenate([b_ih, b_hh])}
        inputs = [x, *(constant(f"{name}_{i}", value[None]) for name, value in weights.items()), ""]
        more = {"linear_before_reset": 1} if cell == "gru" else {}
        states = [f"{kind}_{i}" for kind in kinds]
        out = node(cell.upper(), inputs + states, f"all_{i}", *(f"{s}_out" for s in states), hidden_size=H, **more)
        read = node("Squeeze", [out, axis], f"read_{i}")  # (T, 1, B, H) -> (T, B, H)
        x = node("Add", [x, read], f"sum_{i}") if i and config.get("residual", False) else read
    for kind in kinds:
        node("Concat", [f"{kind}_{i}_out" for i in range(layers)], f"{kind}_out", axis=0)
    columns = constant("softmax", tensors["softmax.weight"].T)
    product = node("MatMul", [x, columns], "product") if layers or not one_hot else node("Gather", [columns, "ids"], "product")
    node("Add", [product, constant("bias", tensors["softmax.bias"])], "logits")

    def value(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    state, V = [layers, "B", H], config["vocabulary_size"]
    graph = helper.make_graph(
        nodes,
        "charrnn",
        [value("ids", ["T", "B"], TensorProto.INT64), *(value(kind, state) for kind in kinds)],
        [value("logits", ["T", "B", V]), *(value(f"{kind}_out", state) for kind in kinds)],
        constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="charrnn",
        producer_version=charrnn.__version__,
    )
    facts = {name: header.get(name) for name in ("vocabulary", "start", "records", "unknown", "config")}
    helper.set_model_props(model, {name: json.dumps(fact) for name, fact in facts.items() if fact is not None})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _gates(weight: np.ndarray, cell: str, hidden_size: int) -> np.ndarray:
    """The rows of `weight` (G H, ...) in the order of ONNX's gates."""
    return np.concatenate([weight[k * hidden_size : (k + 1) * hidden_size] for k in GATES[cell]])
