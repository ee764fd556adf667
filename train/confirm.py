"""Makes extproc/data/minilm.onnx: MiniLM's student for short texts, 12 MB.

In: the student's weights (`train.student`). Out: a graph of plain ONNX operators, word-piece ids in, a sentence vector
of length 1 out. Linear layers are int8 by column with activations quantised as they come (MatMulInteger); 7 bits of the
8, so that no 16-bit sum saturates without VNNI. Word pieces' vectors are 4 bits, scaled in groups of 32. Positions end
at 64. Needs `pip install 'onnx>=1.18'`; prints the digest:

    python -m train.confirm student.npz

    b62ec65a659b984cd6d565b8a8581677c95219805e998a009143f938fdfbda77 minilm.onnx
"""

import hashlib
import sys
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from extproc.embedding.static import DATA
from train.minilm import HEADS, Floats

POSITIONS = 64
STEPS = 63  # of a linear weight's 7 bits
GROUP = 32  # dimensions of a word piece that share a scale
_OPSET, _IR = 23, 11


class Graph:
    """Nodes and constants, by name."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        """A constant's name."""
        if name not in {known.name for known in self.constants}:
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def integers(self, *values: int) -> str:
        """A shape, axes or an index."""
        return self.constant("i" + "_".join(map(str, values)), np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A float32."""
        return self.constant(f"f{value}", np.float32(value))

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """The name of the node's output."""
        out = out or f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def linear(self, x: str, *names: str) -> str:
        """x · W + b: x quantised as it comes, W by column. Of more than one layer: their outputs side by side."""
        name = names[0]
        columns = np.concatenate([self.weights[f"{each}.weight"] for each in names]).T
        bias = np.concatenate([self.weights[f"{each}.bias"] for each in names])
        scales = np.abs(columns).max(axis=0) / STEPS
        parts = np.clip(np.round(columns / scales), -STEPS, STEPS).astype(np.int8)
        at = len(self.nodes)
        quantised, scale, zero = (f"{part}{at}" for part in ("quantised", "scale", "zero"))
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], [quantised, scale, zero]))
        product = self.add("MatMulInteger", quantised, self.constant(f"{name}.parts", parts), zero)
        both = self.add("Mul", scale, self.constant(f"{name}.scales", scales))
        scaled = self.add("Mul", self.add("Cast", product, to=TensorProto.FLOAT), both)
        return self.add("Add", scaled, self.constant(f"{name}.bias", bias))

    def norm(self, x: str, name: str) -> str:
        """Layer normalisation."""
        weight, bias = (
            self.constant(f"{name}.LayerNorm.{part}", self.weights[f"{name}.LayerNorm.{part}"]) for part in _WB
        )
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-12)


_WB = ("weight", "bias")


def packed(table: Floats) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Vectors of word pieces, two parts of 4 bits a byte, the first half of one in the low ones; and their scales."""
    groups = table.reshape(len(table), -1, GROUP)
    scales = np.abs(groups).max(axis=2, keepdims=True) / 7
    parts = (np.clip(np.round(groups / scales), -7, 7) + 8).astype(np.uint8).reshape(table.shape)
    half = table.shape[1] // 2
    return parts[:, :half] | parts[:, half:] << 4, scales.astype(np.float16)


def unpacked(parts: NDArray[np.uint8], scales: NDArray[np.float16]) -> Floats:
    """The vectors as the graph reads them."""
    both = np.concatenate([parts & 15, parts >> 4], axis=1).astype(np.float32) - 8
    return (both.reshape(len(parts), -1, GROUP) * scales).reshape(both.shape).astype(np.float32)


def words(graph: Graph) -> str:
    """The vectors of the ids: two parts a byte, the first half of a vector in the low bits."""
    table = graph.weights["embeddings.word_embeddings.weight"]
    parts, scales = packed(table)
    row = graph.add("Gather", graph.constant("words", parts), "input_ids", axis=0)
    low = graph.add("BitwiseAnd", row, graph.constant("low", np.uint8(15)))
    high = graph.add("BitShift", row, graph.constant("four", np.uint8(4)), direction="RIGHT")
    both = graph.add("Cast", graph.add("Concat", low, high, axis=-1), to=TensorProto.FLOAT)
    grouped = graph.add(
        "Reshape", graph.add("Sub", both, graph.number(8)), graph.integers(0, 0, table.shape[1] // GROUP, GROUP)
    )
    scale = graph.add("Gather", graph.constant("word_scales", scales), "input_ids", axis=0)
    scaled = graph.add("Mul", grouped, graph.add("Cast", scale, to=TensorProto.FLOAT))
    return graph.add("Reshape", scaled, graph.integers(0, 0, table.shape[1]))


def embedded(graph: Graph) -> str:
    """Words, positions and the one segment there is, normalised."""
    places = graph.weights["embeddings.position_embeddings.weight"][:POSITIONS]
    table = graph.constant("places", places + graph.weights["embeddings.token_type_embeddings.weight"][0])
    length = graph.add("Gather", graph.add("Shape", "input_ids"), graph.integers(1), axis=0)
    first = graph.add("Slice", table, graph.integers(0), length, graph.integers(0))
    return graph.norm(graph.add("Add", words(graph), first), "embeddings")


def attended(graph: Graph, x: str, name: str) -> str:
    """Self-attention, before its output layer. Its three inputs are one product, of x quantised once."""
    joined = graph.linear(x, *(f"{name}.{part}" for part in ("query", "key", "value")))
    parts = [f"{joined}.{at}" for at in range(3)]
    graph.nodes.append(helper.make_node("Split", [joined], parts, axis=-1, num_outputs=len(parts)))
    return graph.add("Attention", *parts, q_num_heads=HEADS, kv_num_heads=HEADS)


def model(graph: Graph) -> onnx.ModelProto:
    """Everything: ids of shape (texts, pieces), of texts of one length -> (texts, 384)."""
    x = embedded(graph)
    for layer in range(len({name.split(".")[2] for name in graph.weights if name.startswith("encoder.layer.")})):
        name = f"encoder.layer.{layer}"
        seen = attended(graph, x, f"{name}.attention.self")
        x = graph.norm(
            graph.add("Add", x, graph.linear(seen, f"{name}.attention.output.dense")), f"{name}.attention.output"
        )
        inner = graph.add("Gelu", graph.linear(x, f"{name}.intermediate.dense"))
        x = graph.norm(graph.add("Add", x, graph.linear(inner, f"{name}.output.dense")), f"{name}.output")
    total = graph.add("ReduceSum", x, graph.integers(1), keepdims=0)
    graph.add("LpNormalization", total, out="embedding", axis=1, p=2)
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["texts", "pieces"])
    output = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["texts", 384])
    built = helper.make_graph(graph.nodes, "minilm", [ids], [output], graph.constants)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


def main(student: str) -> None:
    """Write the graph."""
    built = model(Graph(dict(np.load(student))))
    onnx.checker.check_model(built)
    data = built.SerializeToString(deterministic=True)
    (DATA / "minilm.onnx").write_bytes(data)
    print(hashlib.sha256(data).hexdigest(), "minilm.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])
