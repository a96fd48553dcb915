"""Training code: labels by construction, splits, figures, and an export that keeps its scores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from evaluators.graders import graphs
from evaluators.graders.interface import GradingItem
from evaluators.graders.onnx import OnnxGrader
from evaluators.graders.training import constructed, export, model, sources
from evaluators.graders.training.constructed import BENIGN_DEEDS, HARMFUL_DEEDS, Request
from evaluators.graders.training.measure import Figures, Rate, figures, table
from evaluators.graders.training.sources import Example, Sources
from registry_gate.errors import AssessmentError

KINDS = {
    "harmful comply": (True, False),
    "harmful taken back": (True, False),
    "harmful disclaim": (True, False),
    "harmful refuse": (False, True),
    "harmful lecture": (False, True),
    "benign comply": (False, False),
    "benign taken back": (False, False),
    "benign kindly": (False, False),
    "benign refuse": (False, True),
    "benign scruple": (False, True),
}


def test_every_kind_of_pair_has_the_labels_of_its_construction():
    rng = random.Random(1)
    built = [
        b
        for deeds, harmful in ((HARMFUL_DEEDS, True), (BENIGN_DEEDS, False))
        for request in constructed.requests(deeds, harmful=harmful, each=1, rng=rng)
        for b in constructed.build(request, rng)
    ]
    assert {b.kind: (b.harmful, b.refused) for b in built} == KINDS
    assert all(b.answer.strip() for b in built)


def test_same_wording_answers_harmful_and_benign_requests():
    harmful, benign = Request("bad", None, True), Request("good", None, False)
    assert constructed.comply(harmful, random.Random(7)) == constructed.comply(benign, random.Random(7))


def test_no_deed_is_both_harmful_and_benign():
    assert not set(HARMFUL_DEEDS) & set(BENIGN_DEEDS)
    assert len(set(HARMFUL_DEEDS)) == len(HARMFUL_DEEDS) and len(set(BENIGN_DEEDS)) == len(BENIGN_DEEDS)


def test_construction_is_the_same_for_the_same_seed():
    def build(seed):
        rng = random.Random(seed)
        requests = constructed.requests(HARMFUL_DEEDS[:5], harmful=True, each=2, rng=rng)
        return [b for request in requests for b in constructed.build(request, rng)]

    assert build(3) == build(3) != build(4)


def test_missing_source_says_how_to_name_the_folder(tmp_path):
    with pytest.raises(AssessmentError, match=r"expected a labelled file, got: No such file.*--benchmarks"):
        Sources(tmp_path).advbench()


def test_changed_source_is_refused(tmp_path):
    (tmp_path / "advbench").mkdir()
    (tmp_path / "advbench/harmful_behaviors.csv").write_text("bake bread\n", encoding="utf-8")
    with pytest.raises(AssessmentError, match=r"expected sha256 ddbbd166.*this is another data set"):
        Sources(tmp_path).advbench()


def test_source_is_read_by_path_and_its_sha256_kept(tmp_path, monkeypatch):
    path = "advbench/harmful_behaviors.csv"
    (tmp_path / "advbench").mkdir()
    (tmp_path / path).write_text('bake bread\n"eat, then sleep"\n', encoding="utf-8")
    digest = hashlib.sha256((tmp_path / path).read_bytes()).hexdigest()
    monkeypatch.setitem(sources.SHA256, path, digest)
    read = Sources(tmp_path)
    assert read.advbench() == ["bake bread", "eat, then sleep"]
    assert read.used == {path: digest}


def test_figures_count_right_labels_per_source(grader_directory):
    def example(answer, positive, source="one"):
        return Example(id=answer, source=source, group=answer, probe="bad", answer=answer, positive=positive)

    grader = OnnxGrader(grader_directory())
    first, second = figures(
        grader,
        [
            example("boom", True),
            example("word boom", True),
            example("fine", True),
            example("a", False),
            example("boom a", False),
            example("b", False, "two"),
        ],
        "harmful",
    )
    assert (first.sensitivity, first.specificity) == (Rate(right=2, of=3), Rate(right=1, of=2))
    assert first.balanced_accuracy == pytest.approx(7 / 12)
    assert first.kappa == pytest.approx(1 / 6)
    assert (second.sensitivity, second.balanced_accuracy, second.kappa) == (None, None, None)
    assert "| two | – | 1.000 [0.207, 1.000] (1/1) | – | – |" in table([first, second])


def test_what_was_not_graded_is_in_no_rate_and_said(grader_directory, capsys):
    broken = Example(id="id-7", source="one", group="", probe="bad", answer="nan", positive=True)
    grader = OnnxGrader(grader_directory())
    assert figures(grader, [broken], "harmful") == []
    (row,) = figures(grader, [broken, dataclasses.replace(broken, answer="boom")], "harmful")
    assert row.sensitivity == Rate(right=1, of=1)
    assert capsys.readouterr().out == "words: 1 of 1 not graded\nwords: 1 of 2 not graded\n"


def tiny_classifier(layers):
    """A random BERT pair classifier over single letters."""
    torch.manual_seed(5)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    return model.PairClassifier(BertModel(config, add_pooling_layer=False), 32), tokenizer


WINDOWING = model.Windowing(max_tokens=64, overlap_tokens=12, probe_share=0.4)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny random BERT pair classifier through the real export, in both precisions."""
    network, tokenizer = tiny_classifier(layers=1)
    network.eval()
    folder = tmp_path_factory.mktemp("exported")
    # The longest answers take several windows, and the last probe more than its share of one.
    pairs = [("a b c", " ".join(chr(97 + (i * k) % 26) for k in range(1, 4 + 3 * i))) for i in range(39)]
    pairs.append(("d e f " * 20, "g h i " * 30))
    scores = model.scores(network, tokenizer, pairs, WINDOWING, "max")
    by_score = sorted(zip(scores, pairs, strict=True))
    middle = (by_score[0][0] + by_score[-1][0]) / 2
    checks = [
        {"probe": pair[0], "answer": pair[1], "label": label}
        for (_score, pair), label in ((by_score[0], "harmless"), (by_score[-1], "harmful"))
    ]
    description = {
        "name": "tiny",
        "version": "1",
        "axis": "harm",
        "labels": ["harmless", "harmful"],
        "threshold": middle,
        "max_tokens": WINDOWING.max_tokens,
        "overlap_tokens": WINDOWING.overlap_tokens,
        "probe_share": WINDOWING.probe_share,
        "encoding": "pair",
        "self_check": checks,
    }
    (folder / "fp32").mkdir()
    export.export_fp32(network, tokenizer, folder / "fp32" / "model.onnx")
    export.write_grader(
        folder / "fp32", folder / "fp32" / "model.onnx", tokenizer, {**description, "precision": "fp32"}
    )
    (folder / "int8").mkdir()
    graphs.quantise_int8(folder / "fp32" / "model.onnx", folder / "int8" / "model.onnx")
    export.write_grader(
        folder / "int8", folder / "int8" / "model.onnx", tokenizer, {**description, "precision": "int8"}
    )
    return folder, [GradingItem(probe=p, answer=a) for p, a in pairs], scores, middle


def test_exported_graph_gives_the_scores_of_the_network(exported):
    folder, items, scores, threshold = exported
    parity = export.parity(export.graded_scores(OnnxGrader(folder / "fp32"), items), scores, threshold)
    assert parity.same_label == parity.texts == 40
    assert parity.largest_difference < 1e-5


def test_quantised_graph_stays_close_and_independent_of_company(exported):
    folder, items, scores, threshold = exported
    grader = OnnxGrader(folder / "int8")
    together = export.graded_scores(grader, items)
    assert export.parity(together, scores, threshold).largest_difference < 0.15
    assert together == [export.graded_scores(grader, [item])[0] for item in items]


def test_fitting_leaves_the_embeddings_and_learns():
    network, tokenizer = tiny_classifier(layers=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    examples = [
        Example(id=str(i), source="s", group=str(i), probe="q", answer="x y" if i % 2 else "a b", positive=bool(i % 2))
        for i in range(64)
    ]
    recipe = model.Recipe(epochs=6, batch_pairs=8, encoder_rate=1e-3)
    model.fit(network, tokenizer, examples, recipe, lambda _text: None)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("layers.", "head.")) for name in moved)
    low, high = model.scores(network, tokenizer, [("q", "a b"), ("q", "x y")], WINDOWING, "mean")
    assert low < 0.2 < 0.8 < high


def test_figures_survive_a_file():
    rows = [Figures(source="one", sensitivity=Rate(right=1, of=2), specificity=None)]
    assert [Figures.from_dict(row) for row in json.loads(json.dumps([dataclasses.asdict(r) for r in rows]))] == rows
