"""Export an encoder's attention as one fused node of ONNX Runtime, with its projections inside where they allow it.

The exporter of torch writes attention as a dozen small nodes that the optimiser of ONNX Runtime does not recognise as
one. So the encoder is exported with an attention implementation of ours: a `MultiHeadAttention` node of ONNX Runtime
that takes the number of real tokens of each row instead of a mask, which lets every provider use its fast kernels. A
second pass then makes `Attention` of each node whose query, key and value are projections of one input: one matrix
product instead of three.

Rows must be padded at the end, as `OnnxGrader` does: a count cannot say that padding stands elsewhere.

Source: contrib operators `MultiHeadAttention` and `Attention` of ONNX Runtime (docs/ContribOperators.md), and the
attention interface of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from transformers import AttentionInterface, AttentionMaskInterface

from evaluators.graders.graphs import drop_unused

ATTENTION = "registry_gate_fused"
"""Name of the attention implementation; `model.set_attn_implementation` takes it."""

_DOMAIN = "com.microsoft"


class NotFusableError(Exception):
    """This model's attention is not what the fused node computes; export it with its plain attention."""


def register() -> None:
    """Make the implementation known to transformers. Models that use it can be exported, not run."""
    AttentionInterface.register(ATTENTION, _attention)
    AttentionMaskInterface.register(ATTENTION, _as_given)


@contextmanager
def applied(model: Any) -> Iterator[None]:
    """Let a model of transformers use the implementation while it is exported.

    Raises:
        NotFusableError: It computes attention in a way of its own.
    """
    register()
    before = model.config._attn_implementation
    if not model._can_set_attn_implementation():
        raise NotFusableError(f"{type(model).__name__} computes attention in a way of its own")
    model.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _as_given(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> torch.Tensor | None:
    return attention_mask


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    if sliding_window is not None:
        raise NotFusableError("attention within a sliding window, which the fused node does not have")
    batch, heads, length, size = query.shape
    flat = [part.transpose(1, 2).reshape(batch, length, heads * size) for part in (query, key, value)]
    lengths = attention_mask.sum(-1).to(torch.int32)
    fused = torch.onnx.ops.symbolic(
        f"{_DOMAIN}::MultiHeadAttention",
        [*flat, None, lengths],
        {"num_heads": heads, "scale": float(scaling)},
        dtype=query.dtype,
        shape=flat[0].shape,
        version=1,
    )
    return fused.reshape(batch, length, heads, size), None


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
    drop_unused(graph)
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
