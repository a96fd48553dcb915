"""Make a classifier's ONNX graph fast without changing what it computes, and round it to int8 or fp16.

What is fused is what measured faster (`tests/benchmarks/README.md`): on a CPU the fused sum and normalisation of ONNX
Runtime 1.31 takes four times as long as its sum and its normalisation apart, on a GPU it is worth having.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import float16, optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

_OF_EACH_TOKEN = frozenset({"Add", "Cast", "Div", "Erf", "Identity", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"})
_TOKENS = 1
"""The axis of tokens in a tensor of (rows, tokens, width)."""


def optimise(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same function, for a CPU: nodes joined where that helps, and nothing computed that is not read."""
    compute_what_is_read(graph)
    return _fused(graph, on_gpu=False)


def quantise_int8(fp32: Path, file: Path) -> None:
    """Dynamic int8: weights in seven bits per channel, activations in eight as they come.

    Seven, because processors without VNNI add two products in 16 bits and saturate with eight; with seven every
    processor computes the same integers.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        graph = onnx.load(str(fp32))
        # The exporter leaves shapes of weights that it has transposed since; the quantiser infers them itself.
        del graph.graph.value_info[:]
        onnx.save(graph, str(prepared))
        quantize_dynamic(
            str(prepared),
            str(file),
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            # What the fused nodes of ONNX Runtime give has no type that the quantiser could infer.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    onnx.checker.check_model(str(file))


def round_fp16(fp32: Path, file: Path) -> None:
    """Half precision inside, single at the inputs and outputs; fused for a GPU."""
    fused = _fused(onnx.load(str(fp32)), on_gpu=True)
    onnx.save(float16.convert_float_to_float16(fused, keep_io_types=True), str(file))


def _fused(graph: onnx.ModelProto, *, on_gpu: bool) -> onnx.ModelProto:
    options = FusionOptions("bert")
    # What is left unfused was left so for a reason: patterns of the optimiser do not know windows and relative places.
    options.enable_attention = False
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = on_gpu
    # The fused node of a sum and its normalisation expects a bias, which ModernBERT's has not.
    biased = all(len(node.input) == 3 for node in graph.graph.node if node.op_type == "LayerNormalization")
    options.enable_skip_layer_norm = on_gpu and biased
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.onnx"
        onnx.save(graph, str(file))
        fused = optimizer.optimize_model(
            str(file), model_type="bert", num_heads=0, hidden_size=0, optimization_options=options, opt_level=0
        )
    if not any(each.domain == "com.microsoft" for each in fused.model.opset_import):
        fused.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return fused.model


def compute_what_is_read(graph: onnx.ModelProto) -> int:
    """Where only the first token is read, compute what comes after the last attention for that token alone, in place.

    A classifier that reads `[CLS]` needs no other token's last feed-forward layer: an eighth of the work of six layers.

    Returns:
        How many nodes now see one token instead of all.
    """
    return sum(_OneToken(graph.graph, reader).move() for reader in list(graph.graph.node))


class _OneToken:
    """Moves the choice of the first token from where it is made towards the inputs, as far as tokens stay apart.

    Args:
        reader: A node of the graph; one that does not choose the first token is left as it is.
    """

    def __init__(self, graph: onnx.GraphProto, reader: onnx.NodeProto) -> None:
        self._graph = graph
        self._reader = reader
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        # Name of the number of tokens of each tensor of (rows, tokens, width).
        self._length = {
            value.name: value.type.tensor_type.shape.dim[_TOKENS].dim_param
            for value in graph.value_info
            if len(value.type.tensor_type.shape.dim) == 3
        }

    def move(self) -> int:
        if not self._chooses_first():
            return 0
        readers: dict[str, list[str]] = {output.name: ["the caller"] for output in self._graph.output}
        for node in self._graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node.output[0])

        # (1) From the end: nodes whose every reader needs the first token only.
        moved = {self._reader.output[0]: self._reader}
        for node in reversed(self._graph.node):
            name = node.output[0]
            if name in readers and set(readers[name]) <= set(moved) and self._keeps_apart(node):
                moved[name] = node
        if len(moved) == 1:
            return 0

        # (2) What these take from elsewhere is cut to the first token.
        cut: dict[str, str] = {}
        for node in moved.values():
            for i, name in enumerate(node.input):
                if name in self._length and name not in moved:
                    cut[name] = node.input[i] = f"{name}.first"
        index = f"{self._reader.output[0]}.first"
        self._graph.initializer.append(helper.make_tensor(index, onnx.TensorProto.INT64, [1], [0]))
        for name, first in cut.items():
            at = min(i for i, node in enumerate(self._graph.node) if first in node.input)
            self._graph.node.insert(at, helper.make_node("Gather", [name, index], [first], axis=_TOKENS))
        for value in [value for value in self._graph.value_info if value.name in moved]:
            self._graph.value_info.remove(value)
        return len(moved) - 1

    def _chooses_first(self) -> bool:
        node = self._reader
        if node.op_type != "Gather" or node.domain or node.input[1] not in self._weights:
            return False
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        index = numpy_helper.to_array(self._weights[node.input[1]])
        return axis == _TOKENS and index.ndim == 0 and int(index) == 0 and bool(self._length.get(node.input[0]))

    def _keeps_apart(self, node: onnx.NodeProto) -> bool:
        """Whether each token of what a node gives depends on that token alone of what it takes."""
        length = self._length.get(node.output[0])
        if not length or node.domain or len(node.output) != 1:
            return False
        match node.op_type:
            case "LayerNormalization":
                axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
                return axis in (-1, 2) and all(name in self._weights for name in node.input[1:] if name)
            case "MatMul":
                weight = self._weights.get(node.input[1])
                return weight is not None and len(weight.dims) == 2
            case kind:
                return kind in _OF_EACH_TOKEN and all(
                    self._length.get(name) == length or self._same_for_all(name) for name in node.input
                )

    def _same_for_all(self, name: str) -> bool:
        weight = self._weights.get(name)
        return weight is not None and len(weight.dims) < 2


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and weights that no output depends on, in place."""
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        unused = [node for node in graph.node if not used & set(node.output)]
        if not unused:
            break
        for node in unused:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
