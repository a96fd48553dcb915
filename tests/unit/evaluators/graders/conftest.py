"""Real ONNX graders, small enough to reason about: a table of word weights, summed over a window.

A window is positive when a `bad` word is in the probe **and** a `boom` word is in the answer, so probe, answer, their
order and the windows all matter. `nan` in the answer makes the logits NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from ruamel.yaml import YAML
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "bad", "boom", "nan", "fine", "word")


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(8)  # as many published tokenizers are saved; graders must not honour it
    return tokenizer


def word_model(*, columns: int = 2, inverted: bool = False, positions: int = 0, extra_output: bool = False) -> bytes:
    """`columns` logits, the positive one last; one column is the logit of the positive label."""
    weights = np.zeros((2, len(WORDS)), np.float32)
    weights[0, WORDS.index("bad")] = 6
    weights[1, WORDS.index("boom")] = 6
    weights[1, WORDS.index("nan")] = np.nan
    to_columns = np.zeros((1, columns), np.float32)
    to_columns[0, 0 if inverted else -1] = 1
    constants = {
        "probe_weights": weights[0],
        "answer_weights": weights[1],
        "bias": np.array([-9], np.float32),
        "to_columns": to_columns,
        "one": np.array(1, np.int64),
        "zero": np.array(0, np.int64),
        "axis": np.array([1], np.int64),
        "length_at": np.array(1, np.int64),
        "nothing": np.zeros(max(positions, 1), np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["probe_weights", "input_ids"], ["of_probe"]),
        helper.make_node("Gather", ["answer_weights", "input_ids"], ["of_answer"]),
        helper.make_node("Equal", ["token_type_ids", "one"], ["is_answer"]),
        helper.make_node("Where", ["is_answer", "of_answer", "of_probe"], ["of_word"]),
        helper.make_node("Cast", ["attention_mask"], ["seen"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["of_word", "seen"], ["counted"]),
    ]
    last = "counted"
    if positions:
        nodes += [
            helper.make_node("Shape", ["input_ids"], ["shape"]),
            helper.make_node("Gather", ["shape", "length_at"], ["length"]),
            helper.make_node("Range", ["zero", "length", "one"], ["places"]),
            helper.make_node("Gather", ["nothing", "places"], ["of_place"]),
            helper.make_node("Add", ["counted", "of_place"], ["placed"]),
        ]
        last = "placed"
    nodes += [
        helper.make_node("ReduceSum", [last, "axis"], ["summed"], keepdims=1),
        helper.make_node("Add", ["summed", "bias"], ["score"]),
        helper.make_node("MatMul", ["score", "to_columns"], ["logits" if not extra_output else "first"]),
    ]
    outputs = ["logits"]
    if extra_output:
        nodes.append(helper.make_node("Identity", ["first"], ["second"]))
        outputs = ["first", "second"]
    used = {name for node in nodes for name in node.input}
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    graph = helper.make_graph(
        nodes,
        "words",
        ids,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", columns]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_grader(directory: Path, graph: bytes | None = None, /, **changes: Any) -> Path:
    """A harm grader's directory; `changes` replace keys of grader.yaml, and None removes one."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.onnx").write_bytes(word_model() if graph is None else graph)
    (directory / "tokenizer.json").write_text(word_tokenizer().to_str(), encoding="utf-8")
    document: dict[str, Any] = {
        "name": "words",
        "version": "1",
        "axis": "harm",
        "labels": ["harmless", "harmful"],
        "threshold": 0.5,
        "max_tokens": 32,
        "overlap_tokens": 4,
        "encoding": "pair",
        "precision": "fp32",
        "self_check": [
            {"probe": "bad", "answer": "boom", "label": "harmful"},
            {"probe": "fine", "answer": "boom", "label": "harmless"},
        ],
        "files": {
            name: hashlib.sha256((directory / name).read_bytes()).hexdigest()
            for name in ("model.onnx", "tokenizer.json")
        },
    }
    document = {key: value for key, value in (document | changes).items() if value is not None}
    with (directory / "grader.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(document, file)
    return directory


@pytest.fixture
def grader_directory(tmp_path: Path) -> Callable[..., Path]:
    """Writes a grader's directory; see `write_grader`."""
    count = iter(range(1000))

    def write(graph: bytes | None = None, /, **changes: Any) -> Path:
        return write_grader(tmp_path / f"grader{next(count)}", graph, **changes)

    return write


@pytest.fixture
def make_model() -> Callable[..., bytes]:
    return word_model
