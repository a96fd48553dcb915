"""Fused attention: where it is used the numbers stay, and where a model computes otherwise it says so."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graph_builders import Logits, exported, make_model, rows, scores
from onnx import TensorProto, helper, numpy_helper

from evaluators.graders import fusion, graphs


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_fused_attention_computes_what_the_model_computes(family):
    model = make_model(family)
    graph = exported(model)
    before = Counter(node.op_type for node in graph.graph.node)
    assert (before["MultiHeadAttention"], before["Attention"], before["Softmax"]) == (2, 0, 0)
    expected = {}
    for lengths in ((1,), (7, 3, 1), (60, 59), (40,)):
        with torch.inference_mode():
            expected[lengths] = Logits(model)(*rows(*lengths)).numpy()
        assert np.abs(scores(graph, *rows(*lengths)) - expected[lengths]).max() < 1e-5
    assert graphs.join_projections(graph) == 2
    after = Counter(node.op_type for node in graph.graph.node)
    assert (after["MultiHeadAttention"], after["Attention"]) == (0, 2)
    for lengths, logits in expected.items():
        assert np.abs(scores(graph, *rows(*lengths)) - logits).max() < 1e-5


def test_model_has_its_own_attention_again_after_the_export():
    model = make_model("bert")
    with torch.inference_mode():
        before = Logits(model)(*rows(9, 4))
    exported(model)
    assert model.config._attn_implementation == "eager"
    with torch.inference_mode():
        assert torch.equal(Logits(model)(*rows(9, 4)), before)


def test_attention_of_its_own_kind_is_not_fused():
    with pytest.raises(fusion.NotFusableError, match="DebertaV2ForSequenceClassification computes attention in a way"):
        exported(make_model("deberta-v2"))


def test_sliding_windows_are_not_fused():
    # The fused node would look at everything; with short texts nobody would notice.
    model = make_model("modernbert")
    with fusion.applied(model), pytest.raises(fusion.NotFusableError, match="within a sliding window"):
        Logits(model)(*rows(9, 4))
    assert model.config._attn_implementation == "eager"


def attention_graph(query: str, *, bias: bool = True) -> onnx.ModelProto:
    """Attention over projections of `x`, of which the query's may be of `y`, or have no bias."""
    rng = np.random.default_rng(0)
    nodes, constants = [], {}
    for part, source in (("q", query), ("k", "x"), ("v", "x")):
        constants[f"{part}.w"] = rng.normal(size=(8, 8)).astype(np.float32)
        constants[f"{part}.b"] = rng.normal(size=8).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [source, f"{part}.w"], [f"{part}.product" if bias else part]))
        if bias:  # either order of a sum
            order = [f"{part}.b", f"{part}.product"] if part == "k" else [f"{part}.product", f"{part}.b"]
            nodes.append(helper.make_node("Add", order, [part]))
    nodes.append(
        helper.make_node(
            "MultiHeadAttention",
            ["q", "k", "v", "", "lengths"],
            ["out"],
            domain="com.microsoft",
            num_heads=2,
            scale=0.5,
        )
    )
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 8]) for name in ("x", "y")]
        + [helper.make_tensor_value_info("lengths", TensorProto.INT32, ["batch"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", "length", 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def run(graph: onnx.ModelProto) -> np.ndarray:
    rng = np.random.default_rng(1)
    inputs = {name: rng.normal(size=(2, 5, 8)).astype(np.float32) for name in ("x", "y")}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs["lengths"] = np.array([5, 3], np.int32)
    return session.run(None, inputs)[0]


@pytest.mark.parametrize(("query", "bias", "joined"), [("x", True, 1), ("y", True, 0), ("x", False, 0)])
def test_projections_are_joined_only_where_they_are_of_one_input_and_complete(query, bias, joined):
    graph = attention_graph(query, bias=bias)
    before = run(graph)
    assert graphs.join_projections(graph) == joined
    real = np.arange(5) < np.array([[5], [3]])  # what padding gives is nobody's business
    assert np.abs((run(graph) - before)[real]).max() < 1e-5
