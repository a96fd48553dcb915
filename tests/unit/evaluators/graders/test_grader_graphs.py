"""Faster graphs compute what they computed before, and what cannot be left out is not left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graph_builders import Logits, exported, make_model, rows, scores
from onnx import TensorProto, helper, numpy_helper

from evaluators.graders import graphs

LENGTHS = ((1,), (7, 3, 1), (60, 59), (40,))


@pytest.mark.parametrize(
    ("family", "fused"),
    [("bert", True), ("bert", False), ("distilbert", True), ("roberta", True), ("xlm-roberta", True),
     ("deberta-v2", False)],
)  # fmt: skip
def test_a_token_that_nobody_reads_is_not_computed(family, fused):
    model = make_model(family)
    plain = exported(model, fused=fused)
    graph = graphs.optimise(onnx.ModelProto.FromString(plain.SerializeToString()))
    onnx.checker.check_model(graph)
    # Both products, the activation, the sums and the normalisations of the last layer; the query where it is alone.
    assert graphs.compute_what_is_read(plain) >= 10
    if fused:
        kinds = Counter(node.op_type for node in graph.graph.node)
        assert (kinds["Attention"], kinds["MultiHeadAttention"]) == (1, 1)
    for lengths in LENGTHS:
        with torch.inference_mode():
            expected = Logits(model)(*rows(*lengths)).numpy()
        for made in (graph, plain):
            assert np.abs(scores(made, *rows(*lengths)) - expected).max() < 1e-5
    assert graphs.compute_what_is_read(plain) == 0


def test_on_a_cpu_sums_and_normalisations_stay_apart(tmp_path):
    model = make_model("bert")
    graph = exported(model)
    fast = graphs.optimise(graph)
    kinds = Counter(node.op_type for node in fast.graph.node)
    assert (kinds["Gelu"], kinds["LayerNormalization"], kinds["SkipLayerNormalization"]) == (2, 5, 0)
    for lengths in LENGTHS:
        with torch.inference_mode():
            expected = Logits(model)(*rows(*lengths)).numpy()
        assert np.abs(scores(fast, *rows(*lengths)) - expected).max() < 1e-5

    # On a GPU, for which half precision is meant, they are joined, but not those of a single token.
    onnx.save(fast, str(tmp_path / "fp32.onnx"))
    graphs.round_fp16(tmp_path / "fp32.onnx", tmp_path / "fp16.onnx")
    kinds = Counter(node.op_type for node in onnx.load(str(tmp_path / "fp16.onnx")).graph.node)
    assert (kinds["BiasGelu"], kinds["LayerNormalization"], kinds["SkipLayerNormalization"]) == (2, 2, 3)


def hand_made(
    *, index: int = 0, axis: int = 1, weight: tuple[int, ...] = (8, 8), seen: bool = False
) -> onnx.ModelProto:
    """`first token of (x @ w + b)`; `seen` gives the sum to the caller as well."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=weight).astype(np.float32),
        "b": rng.normal(size=8).astype(np.float32),
        "index": np.array(index),
    }
    tokens = ["batch", "length", 8]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["sum"]),
            helper.make_node("Gather", ["sum", "index"], ["out"], axis=axis),
        ],
        "hand made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, tokens)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["some", "of"])]
        + ([helper.make_tensor_value_info("sum", TensorProto.FLOAT, tokens)] if seen else []),
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, tokens) for name in ("x", "product", "sum")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(graph: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)})


@pytest.mark.parametrize(
    ("made", "moved"),
    [
        ({}, 2),
        ({"seen": True}, 0),  # the caller reads every token
        ({"index": 1}, 0),
        ({"index": -1}, 0),  # the last token
        ({"axis": 0}, 0),  # the first row
        ({"weight": (2, 8, 8)}, 1),  # the sum alone: there is a weight for each row
    ],
)
def test_only_the_first_token_is_computed_only_where_it_alone_is_read(made, moved):
    graph = hand_made(**made)
    before = run(graph)
    assert graphs.compute_what_is_read(graph) == moved
    onnx.checker.check_model(graph)
    for now, then in zip(run(graph), before, strict=True):
        assert np.abs(now - then).max() < 1e-6
