"""Export an encoder's attention as one fused node of ONNX Runtime.

The exporter of torch writes attention as a dozen small nodes that the optimiser of ONNX Runtime does not recognise as
one. So the encoder is exported with an attention implementation of ours: a `MultiHeadAttention` node of ONNX Runtime
that takes the number of real tokens of each row instead of a mask, which lets every provider use its fast kernels.

Rows must be padded at the end, as `OnnxGrader` does: a count cannot say that padding stands elsewhere.

Source: contrib operator `MultiHeadAttention` of ONNX Runtime (docs/ContribOperators.md), and the attention interface of
transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

ATTENTION = "registry_gate_fused"
"""Name of the attention implementation; `model.set_attn_implementation` takes it."""


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
        "com.microsoft::MultiHeadAttention",
        [*flat, None, lengths],
        {"num_heads": heads, "scale": float(scaling)},
        dtype=query.dtype,
        shape=flat[0].shape,
        version=1,
    )
    return fused.reshape(batch, length, heads, size), None
