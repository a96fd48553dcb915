"""Exported graders say what the published classifier says; what cannot be exported faithfully leaves nothing behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from checkpoint_builders import FAMILIES, make_checkpoint
from safetensors.torch import load_file, save_file

from evaluators.graders import export as exporting
from evaluators.graders import graphs
from evaluators.graders.catalogue import load_grader
from evaluators.graders.checkpoint import open_checkpoint
from evaluators.graders.export import Bound, ExportRequest, export_grader
from evaluators.graders.interface import Graded, GradingItem
from evaluators.graders.onnx import OnnxGrader, read_grader_file
from evaluators.graders.parity import read_texts, reference_scores, shipped_texts
from registry_gate.errors import AssessmentError

LABELS = {"NORMAL": "answered", "REJECTION": "refused"}


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """One checkpoint of each family, made when it is asked for; not to be changed."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = make_checkpoint(tmp_path_factory.mktemp(family) / "model", family)
        return made[family]

    return of


@pytest.fixture
def copied(published, tmp_path):
    """A BERT checkpoint that a test may damage."""
    return Path(shutil.copytree(published("bert"), tmp_path / "model"))


@pytest.fixture(scope="session", autouse=True)
def few_texts(tmp_path_factory):
    """Tests that do not say otherwise compare on few texts, of one window each, without labels."""
    file = tmp_path_factory.mktemp("texts") / "few.jsonl"
    rows = [{"probe": t.item.probe, "answer": t.item.answer} for t in shipped_texts("refusal").texts[:40]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    FEW.append(file)
    return file


FEW: list[Path] = []


def request(source: Path, out: Path, **changes) -> ExportRequest:
    made = ExportRequest(
        source=source,
        named="hub/model",
        out=out,
        name="tiny",
        version="1",
        axis="refusal",
        labels=LABELS,
        precisions=("fp32",),
        texts=FEW[0],
    )
    return dataclasses.replace(made, **changes)


def export(source: Path, out: Path, **changes):
    return export_grader(request(source, out, **changes), lambda _what, _done, _of: None)


def refused(source: Path, out: Path, **changes) -> AssessmentError:
    before = sorted(out.rglob("*")) if out.exists() else None
    with pytest.raises(AssessmentError) as caught:
        export(source, out, **changes)
    assert (sorted(out.rglob("*")) if out.exists() else None) == before, "something was left behind"
    return caught.value


def edit(file: Path, **changes) -> None:
    document = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps({k: v for k, v in document.items() if v is not None}), encoding="utf-8")


# -- what is exported --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_its_labels_in_every_precision(published, tmp_path, family):
    made = export(published(family), tmp_path / "out", precisions=("fp32", "fp16", "int8"), texts=None)
    fused = "plain" if family in ("deberta-v2", "modernbert") else "fused"
    assert [(each.name, each.graph) for each in made] == [
        (f"tiny-{precision}", fused) for precision in ("fp32", "fp16", "int8")
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tiny-fp16", "tiny-fp32", "tiny-int8"]
    for each in made:
        grader = load_grader(each.name, directories=[tmp_path / "out"])
        assert grader.identity.digest == each.digest
        record = json.loads((each.directory / "parity.json").read_text(encoding="utf-8"))
        assert record["digest"] == each.digest and record["graph"] == fused
        assert record["same_labels"] >= 0.99 * record["texts"]["count"] > 200
        assert record["largest_difference"] <= record["bound"]["difference"]
        assert record["labels"] == LABELS
        assert record["texts"]["sha256"] == shipped_texts("refusal").sha256
        assert record["texts"]["labelled"] == 240 and record["texts"]["balanced_accuracy"] > 0.6
    nodes = {node.op_type for node in onnx.load(str(made[0].directory / "model.onnx")).graph.node}
    assert ("Attention" in nodes) == (fused == "fused")


def test_large_weights_stand_beside_the_graph_and_change_nothing(published, tmp_path, monkeypatch):
    precisions = ("fp32", "fp16", "int8")
    whole = export(published("bert"), tmp_path / "whole", precisions=precisions)
    monkeypatch.setattr(graphs, "_IN_ONE_FILE", 1000)
    apart = export(published("bert"), tmp_path / "apart", precisions=precisions)
    items = [text.item for text in shipped_texts("refusal").texts[:30]]
    for one, other in zip(whole, apart, strict=True):
        files = {path.name: path for path in other.directory.iterdir()}
        assert sorted(files) == ["grader.yaml", "model.onnx", "model.onnx_data", "parity.json", "tokenizer.json"]
        assert files["model.onnx_data"].stat().st_size > 10_000
        assert files["model.onnx_data"].stat().st_mode == files["model.onnx"].stat().st_mode, "others may not read it"
        assert sorted(read_grader_file(other.directory).files) == ["model.onnx", "model.onnx_data", "tokenizer.json"]
        assert other.digest != one.digest, "the digest covers every file"
        graded = [OnnxGrader(made.directory, provider="cpu").grade(items, lambda *_: None) for made in (one, other)]
        assert graded[0] == graded[1]


def test_record_names_the_checkpoint_and_the_texts_by_digest(published, few_texts, tmp_path):
    source = published("bert")
    (made,) = export(source, tmp_path)
    record = json.loads((made.directory / "parity.json").read_text(encoding="utf-8"))
    assert record["reference"]["source"] == "hub/model"
    assert record["reference"]["files"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in source.iterdir()
    }
    sha256 = hashlib.sha256(few_texts.read_bytes()).hexdigest()
    assert record["texts"] == {"source": str(few_texts), "sha256": sha256, "count": 40, "labelled": 0}


def test_exported_grader_reads_long_answers_as_the_model_does_window_by_window(published, tmp_path):
    checkpoint = open_checkpoint(published("roberta"))
    (made,) = export(published("roberta"), tmp_path, max_tokens=64, aggregate="mean")
    grader = OnnxGrader(made.directory)
    items = [GradingItem(probe="How do I bake bread?", answer="I will not. " * n) for n in (1, 9, 30, 77, 400)]
    expected = reference_scores(checkpoint, read_grader_file(made.directory), items, lambda _done, _of: None)
    found = grader.grade(items, lambda _done, _of: None)
    assert all(isinstance(outcome, Graded) for outcome in found)
    assert [outcome.probability for outcome in found] == pytest.approx(expected, abs=1e-4)


def test_one_declining_part_of_a_long_answer_makes_no_refusal_unless_asked_for(published, tmp_path):
    (made,) = export(published("bert"), tmp_path / "out")
    assert read_grader_file(made.directory).aggregate == "mean"
    (asked,) = export(published("bert"), tmp_path / "asked", aggregate="max")
    assert read_grader_file(asked.directory).aggregate == "max"


def test_order_of_labels_is_that_of_the_model(tmp_path):
    source = make_checkpoint(tmp_path / "model", labels=("REJECTION", "NORMAL"))
    labels = {"NORMAL": "refused", "REJECTION": "answered"}  # the last output is fitted to refusals
    (made,) = export(source, tmp_path / "out", labels=labels)
    assert read_grader_file(made.directory).labels == ["answered", "refused"]


@pytest.mark.parametrize("labels", [("ONLY",), ("none", "partial", "full")])
def test_one_output_and_several_outputs_of_one_meaning(tmp_path, labels):
    source = make_checkpoint(tmp_path / "model", labels=labels)
    meant = {name: "refused" if name in ("ONLY", "full") else "answered" for name in labels}
    # One of three is given by far less than half.
    (made,) = export(source, tmp_path / "out", labels=meant, threshold=0.5 if len(labels) == 1 else 0.3)
    assert read_grader_file(made.directory).labels == list(meant.values())


# -- parity decides ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wrong_graph(monkeypatch):
    """Make the graphs of some kinds say something else than the model."""

    def of(*kinds: str) -> None:
        write = exporting._write_fp32

        def written(checkpoint, file, max_tokens, kind):
            write(checkpoint, file, max_tokens, kind)
            if kind in kinds:
                graph = onnx.load(str(file))
                for tensor in graph.graph.initializer:
                    if tensor.name.endswith("classifier.bias"):
                        values = onnx.numpy_helper.to_array(tensor) + np.array([0, 0.05], np.float32)
                        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
                onnx.save(graph, str(file))

        monkeypatch.setattr(exporting, "_write_fp32", written)

    return of


def test_a_fused_graph_that_is_wrong_gives_way_to_the_plain_one(published, tmp_path, wrong_graph):
    wrong_graph("fused")
    (made,) = export(published("bert"), tmp_path)
    assert made.graph == "plain"


def test_no_right_graph_is_a_failure_even_where_int8_would_hide_it(published, tmp_path, wrong_graph):
    wrong_graph("fused", "plain")
    error = refused(published("bert"), tmp_path / "out", precisions=("int8",))
    assert error.code == "grader_parity"
    assert "hub/model in fp32: expected 99.5% of the labels of the PyTorch model and probabilities within 0.001" in str(
        error
    )


def test_one_precision_beyond_its_bound_keeps_nothing_of_the_others(published, tmp_path, monkeypatch):
    monkeypatch.setitem(exporting.BOUNDS, "int8", Bound(same_labels=0.99, difference=0.0))
    error = refused(published("bert"), tmp_path / "out", precisions=("fp32", "int8"))
    assert error.code == "grader_parity"
    assert "hub/model in int8" in str(error) and "Nothing was kept" in str(error)


def test_labels_the_wrong_way_round_are_noticed(published, tmp_path):
    error = refused(published("bert"), tmp_path, texts=None, labels={"NORMAL": "refused", "REJECTION": "answered"})
    assert "Are `--labels` the wrong way round (NORMAL=refused, REJECTION=answered)?" in str(error)


def test_texts_that_all_get_one_label_are_not_enough(published, tmp_path):
    error = refused(published("bert"), tmp_path, threshold=1 - 1e-9, axis="caveat",
                    labels={"NORMAL": "uncaveated", "REJECTION": "caveated"})  # fmt: skip
    assert "expected texts that it calls 'caveated' for the self-check, got none among 40" in str(error)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_existing_grader_is_not_replaced(published, tmp_path):
    (tmp_path / "tiny-fp32").mkdir()
    assert "expected no such directory yet, got one" in str(refused(published("bert"), tmp_path))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"REJECTION": "refused"}, "for each of the model's labels (NORMAL, REJECTION), got one for REJECTION"),
        (
            LABELS | {"MAYBE": "refused"},
            "got one for NORMAL, REJECTION, MAYBE; say `--labels NORMAL=...,REJECTION=...`",
        ),
        ({"NORMAL": "fine", "REJECTION": "refused"}, "expected 'answered' or 'refused' on axis refusal, got 'fine'"),
        ({"NORMAL": "refused", "REJECTION": "refused"}, "expected both 'answered' and 'refused'"),
    ],
)
def test_labels_that_do_not_match_are_refused(published, tmp_path, labels, message):
    error = refused(published("bert"), tmp_path, labels=labels)
    assert message in str(error) and error.code == "grader_labels"


def test_window_longer_than_the_model_is_refused(published, tmp_path):
    # RoBERTa has two more positions than it can use.
    error = refused(published("roberta"), tmp_path, max_tokens=129)
    assert "expected windows of at most 128 tokens, as the model has positions, got 129" in str(error)


def test_directory_without_config_is_refused(tmp_path):
    assert "with config.json, got none" in str(refused(tmp_path, tmp_path / "out"))


def test_pickled_weights_are_refused(copied, tmp_path):
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    error = refused(copied, tmp_path / "out")
    assert "expected weights in safetensors, got only pickled ones (pytorch_model.bin), which can run code" in str(
        error
    )
    (copied / "pytorch_model.bin").unlink()
    assert "expected weights in safetensors, got none" in str(refused(copied, tmp_path / "out"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_the_model_is_refused(copied, tmp_path, file):
    edit(copied / file, auto_map={"AutoModel": "own.Model"})
    assert f"{copied}/{file}: expected a model of transformers itself, got `auto_map`" in str(
        refused(copied, tmp_path / "out")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "expected a model_type among bert, deberta-v2, distilbert, modernbert, roberta, xlm-"),
        ({"architectures": ["BertForMaskedLM"]}, "expected a sequence classifier under `architectures`, got BertFor"),
        ({"architectures": None}, "expected a sequence classifier under `architectures`, got none"),
        ({"problem_type": "multi_label_classification"}, "expected outputs that exclude each other"),
        ({"id2label": {"0": "SAME", "1": "SAME"}}, "expected one name of its own for each output under `id2label`"),
        ({"id2label": {"0": "A", "1": "B", "2": "C"}}, "expected all weights of the classifier, got 2 that would be"),
        ({"num_hidden_layers": 3}, "that would be drawn at random (bert.encoder.layer.2."),
        ({"num_hidden_layers": 1}, "expected only weights that config.json has a place for, got 16 others"),
    ],
)
def test_configuration_that_does_not_fit_is_refused(copied, tmp_path, changes, message):
    edit(copied / "config.json", **changes)
    assert message in str(refused(copied, tmp_path / "out"))


def test_head_that_would_be_drawn_at_random_is_refused(copied, tmp_path):
    weights = load_file(copied / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    save_file(kept, copied / "model.safetensors", metadata={"format": "pt"})
    error = refused(copied, tmp_path / "out")
    assert "got 2 that would be drawn at random (classifier.bias, classifier.weight)" in str(error)
    assert "not the one that it began with" in str(error)


def test_weights_of_the_pretraining_task_do_no_harm(copied, tmp_path):
    weights = load_file(copied / "model.safetensors")
    save_file(
        weights | {"cls.predictions.bias": torch.zeros(3)}, copied / "model.safetensors", metadata={"format": "pt"}
    )
    assert export(copied, tmp_path / "out")


def test_broken_weights_are_refused(copied, tmp_path):
    weights = load_file(copied / "model.safetensors")
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert "expected finite weights, got NaN or infinity in 1 tensors (classifier.weight)" in str(
        refused(copied, tmp_path / "out")
    )
    content = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "expected weights that fit config.json, got " in str(refused(copied, tmp_path / "out"))


def test_missing_or_foreign_tokenizer_is_refused(copied, tmp_path):
    kept = (copied / "tokenizer.json").read_text(encoding="utf-8")
    (copied / "tokenizer.json").unlink()
    assert "expected a tokenizer (tokenizer.json, vocab.txt," in str(refused(copied, tmp_path / "out"))
    (copied / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "expected a tokenizer that can be read, got " in str(refused(copied, tmp_path / "out"))
    (copied / "tokenizer.json").write_text(kept.replace('"##', '"@@'), encoding="utf-8")
    weights = load_file(copied / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    save_file(weights | {name: weights[name][:200].clone()}, copied / "model.safetensors", metadata={"format": "pt"})
    edit(copied / "config.json", vocab_size=200)
    assert "expected a tokenizer of at most 200 tokens, as the model has embeddings, got one of 400" in str(
        refused(copied, tmp_path / "out")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"probe": "a", "answer": "b"}\n' * 30, "expected at least 20 different pairs, got 1"),
        (b"[1]\n", "texts.jsonl:1: expected an object with probe, answer and perhaps label"),
        (b'\n{"probe": "a"}\n', "texts.jsonl:2: expected texts under probe and answer"),
        (
            b'{"probe": "a", "answer": "b", "label": "harmful"}',
            "expected a label among answered, refused, got 'harmful'",
        ),
        (b'{"probe": ', "texts.jsonl:1: expected a JSON object, got: "),
        (b"[" * 100_000, "texts.jsonl:1: expected a JSON object, got: "),
        (
            b'{"probe": "a", "answer": "b \\ud800"}',
            "expected texts that can be encoded, got one whose answer is not valid Unicode at character 2",
        ),
        (b"{}\n\xff\xfe", "texts.jsonl, line 2: expected utf-8 text, got byte 0xff; save the file as UTF-8"),
    ],
)
def test_texts_that_cannot_be_used_are_refused(tmp_path, content, message):
    file = tmp_path / "texts.jsonl"
    file.write_bytes(content)
    with pytest.raises(AssessmentError) as caught:
        read_texts(file, "refusal")
    assert message in str(caught.value) and caught.value.code == "grader_texts"
