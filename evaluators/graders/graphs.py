"""Make a classifier's ONNX graph fast without changing what it computes, and round it to int8 or fp16.

Source: contrib operators `MultiHeadAttention` and `Attention` of ONNX Runtime (docs/ContribOperators.md).

What is fused is what measured faster (`tests/benchmarks/README.md`): on a CPU the fused sum and normalisation of ONNX
Runtime 1.31 takes four times as long as its sum and its normalisation apart, on a GPU it is worth having.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import float16, optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

_DOMAIN = "com.microsoft"
_OF_EACH_TOKEN = frozenset({"Add", "Cast", "Div", "Erf", "Identity", "Mul", "Relu", "Sigmoid", "Sub", "Tanh"})
_TOKENS = 1
"""The axis of tokens in a tensor of (rows, tokens, width)."""


_IN_ONE_FILE = 200_000_000
"""Bytes up to which weights stand in the graph's own file, which is read into memory whole before it is loaded."""


def save(graph: onnx.ModelProto, file: Path) -> None:
    """Write a graph; large weights into `NAME_data` beside it, from where ONNX Runtime maps them."""
    if graph.ByteSize() <= _IN_ONE_FILE:
        onnx.save(graph, str(file))
        return
    onnx.save(graph, str(file), save_as_external_data=True, location=data_of(file).name)
    data_of(file).chmod(file.stat().st_mode)  # onnx lets only its own user read it


def data_of(file: Path) -> Path:
    """Where the weights of a graph are that do not stand in its file."""
    return file.with_name(f"{file.name}_data")


def optimise(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same function, for a CPU: nodes joined where that helps, and nothing computed that is not read."""
    _cancel_reshapes(graph.graph)
    compute_what_is_read(graph)
    join_projections(graph)
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
    if file.stat().st_size > _IN_ONE_FILE:
        save(onnx.load(str(file)), file)


def round_fp16(fp32: Path, file: Path) -> None:
    """Half precision inside, single at the inputs and outputs; fused for a GPU."""
    fused = _fused(onnx.load(str(fp32)), on_gpu=True)
    save(float16.convert_float_to_float16(fused, keep_io_types=True), file)


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
    if not any(each.domain == _DOMAIN for each in fused.model.opset_import):
        fused.model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
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
        # Who reads a tensor, and as which of its inputs; the caller reads outputs whole.
        readers: dict[str, list[tuple[str, int]]] = {output.name: [("", 0)] for output in self._graph.output}
        for node in self._graph.node:
            for i, name in enumerate(node.input):
                readers.setdefault(name, []).append((node.output[0], i))

        # (1) From the end: nodes whose every reader needs the first token only.
        moved = {self._reader.output[0]: self._reader}
        for node in reversed(self._graph.node):
            name = node.output[0]
            if (
                name in readers
                and all(reader in moved and self._of_one_token(moved[reader], i) for reader, i in readers[name])
                and self._keeps_apart(node)
            ):
                moved[name] = node
        if len(moved) == 1:
            return 0

        # (2) What these take from elsewhere is cut to the first token.
        cut: dict[str, str] = {}
        for node in moved.values():
            for i, name in enumerate(node.input):
                if name in self._length and name not in moved and self._of_one_token(node, i):
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
        if not length or len(node.output) != 1:
            return False
        if _attends(node):
            # Beyond the lengths of rows: a bias of each query, or keys of before.
            return node.input[0] in self._length and not any(node.input[5:])
        if node.domain:
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

    def _of_one_token(self, node: onnx.NodeProto, i: int) -> bool:
        """Whether a token of what a node gives needs that token alone of input `i`; attention looks at all keys."""
        return i == 0 or not _attends(node)

    def _same_for_all(self, name: str) -> bool:
        weight = self._weights.get(name)
        return weight is not None and len(weight.dims) < 2


def _attends(node: onnx.NodeProto) -> bool:
    return node.op_type == "MultiHeadAttention" and node.domain == _DOMAIN


def _cancel_reshapes(graph: onnx.GraphProto) -> None:
    """Read past reshapes of which the last gives the shape that came to the first, in place."""
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in graph.value_info
    }
    sources: dict[str, str] = {}
    same: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = same.get(name, name)
        if node.op_type == "Reshape" and not node.domain:
            name, source = node.output[0], sources.get(node.input[0], node.input[0])
            sources[name] = source
            if all(shapes.get(name, [])) and shapes.get(name) and shapes.get(name) == shapes.get(source):
                same[name] = source
    _drop_unused(graph)


def join_projections(model: onnx.ModelProto) -> int:
    """Make `Attention` of every `MultiHeadAttention` whose inputs are projections of one tensor, in place.

    Returns:
        How many were joined. The others stay as they are, and stay right.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    joined = 0
    for node in graph.node:
        if node.op_type != "MultiHeadAttention" or node.domain != _DOMAIN:
            continue
        parts = [_projection(name, producers, weights) for name in node.input[:3]]
        if None in parts or len({part[0] for part in parts if part}) != 1:
            continue
        found = [part for part in parts if part is not None]
        prefix = f"{node.name or node.output[0]}.joined"
        for kind, tensors, axis in (
            ("weight", [weights[part[1]] for part in found], 1),
            ("bias", [weights[part[2]] for part in found], 0),
        ):
            values = np.concatenate([numpy_helper.to_array(tensor) for tensor in tensors], axis=axis)
            graph.initializer.append(numpy_helper.from_array(values, f"{prefix}.{kind}"))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        new = helper.make_node(
            "Attention",
            [found[0][0], f"{prefix}.weight", f"{prefix}.bias", node.input[4]],
            list(node.output),
            name=node.name,
            domain=_DOMAIN,
            **attributes,
        )
        node.CopyFrom(new)
        joined += 1
    _drop_unused(graph)
    return joined


def _projection(
    name: str, producers: Mapping[str, onnx.NodeProto], weights: Mapping[str, onnx.TensorProto]
) -> tuple[str, str, str] | None:
    """Input, weight and bias of the projection that a tensor is, or None when it is something else."""
    node = producers.get(name)
    while node is not None and node.op_type == "Reshape":  # heads split and merged again
        node = producers.get(node.input[0])
    if node is None or node.op_type != "Add":
        return None
    for bias, product in (tuple(node.input), tuple(reversed(node.input))):
        matmul = producers.get(product)
        if bias in weights and matmul is not None and matmul.op_type == "MatMul" and matmul.input[1] in weights:
            return matmul.input[0], matmul.input[1], bias
    return None


def _drop_unused(graph: onnx.GraphProto) -> None:
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
