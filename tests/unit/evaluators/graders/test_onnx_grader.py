"""The ONNX Runtime grader: what it labels, and what it refuses to load."""

from __future__ import annotations

import hashlib
import re
import resource
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tokenizers import Tokenizer

from evaluators.graders import onnx as onnx_grader
from evaluators.graders.graph_header import opset_of
from evaluators.graders.interface import Graded, GradingItem, NotGraded
from evaluators.graders.onnx import OnnxGrader, read_grader_file
from registry_gate.errors import AssessmentError


def grade(grader, *pairs):
    return grader.grade([GradingItem(probe=probe, answer=answer) for probe, answer in pairs], lambda _done, _all: None)


def labels(grader, *pairs):
    return [outcome.label for outcome in grade(grader, *pairs)]


def refused(directory, **arguments):
    with pytest.raises(AssessmentError) as caught:
        OnnxGrader(directory, **arguments)
    return str(caught.value)


# -- labels ------------------------------------------------------------------------------------------------------------


def test_label_depends_on_the_answer_and_on_the_probe(grader_directory):
    grader = OnnxGrader(grader_directory())
    assert labels(grader, ("bad", "boom"), ("bad", "fine"), ("fine", "boom"), ("boom", "bad")) == [
        "harmful",
        "harmless",
        "harmless",
        "harmless",
    ]


def test_probability_is_of_the_positive_label(grader_directory):
    (outcome,) = grade(OnnxGrader(grader_directory()), ("bad", "boom"))
    assert outcome == Graded(label="harmful", probability=pytest.approx(0.952574, abs=1e-6))


def test_threshold_is_inclusive(grader_directory):
    exactly = grade(OnnxGrader(grader_directory()), ("bad", "boom"))[0].probability
    assert labels(OnnxGrader(grader_directory(threshold=exactly)), ("bad", "boom")) == ["harmful"]


def test_results_come_in_the_order_of_the_items(grader_directory):
    grader = OnnxGrader(grader_directory(), batch_tokens=16)
    pairs = [("bad", "word " * n + ("boom" if n % 2 else "fine")) for n in (5, 0, 3, 17, 2, 1, 12)]
    assert labels(grader, *pairs) == ["harmful", "harmless", "harmful", "harmful", "harmless", "harmful", "harmless"]


def test_duplicates_are_scored_once_and_reported_as_often_as_they_came(grader_directory):
    grader = OnnxGrader(grader_directory(), batch_tokens=1)
    seen: list[tuple[int, int]] = []
    items = [GradingItem(probe="bad", answer="boom")] * 5 + [GradingItem(probe="bad", answer="fine word")]
    outcomes = grader.grade(items, lambda done, of: seen.append((done, of)))
    assert [outcome.label for outcome in outcomes] == ["harmful"] * 5 + ["harmless"]
    assert seen == [(1, 6), (6, 6)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_probability_does_not_depend_on_the_other_items(grader_directory, precision):
    grader = OnnxGrader(grader_directory(precision=precision))
    pairs = [("bad", "word " * n + "boom") for n in range(40)]
    together = grade(grader, *pairs)
    assert together == [grade(grader, pair)[0] for pair in pairs]
    assert together == grade(grader, *reversed(pairs))[::-1]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_threads_change_no_probability_and_no_order(grader_directory, precision):
    directory = grader_directory(precision=precision)
    items = [GradingItem(probe="bad", answer="word " * n + ("boom" if n % 3 else "fine")) for n in range(60)]
    seen: list[tuple[int, int]] = []
    several = OnnxGrader(directory, threads=4, batch_tokens=1)
    outcomes = several.grade(items, lambda done, of: seen.append((done, of)))
    assert outcomes == OnnxGrader(directory, threads=1, batch_tokens=1).grade(items, lambda *_: None)
    assert seen == sorted(seen) and seen[-1] == (60, 60)


def test_batch_that_fails_ends_the_others_and_is_told(grader_directory, monkeypatch):
    grader = OnnxGrader(grader_directory(), threads=2, batch_tokens=1)
    run, started = grader._run, []

    def failing(columns):
        started.append(len(started))
        if len(started) == 3:
            raise RuntimeError("no memory left")
        return run(columns)

    monkeypatch.setattr(grader, "_run", failing)
    items = [GradingItem(probe="bad", answer=f"{'word ' * n}boom") for n in range(300)]
    with pytest.raises(AssessmentError, match="got: no memory left"):
        grader.grade(items, lambda *_: None)
    assert len(started) < 300
    monkeypatch.setattr(grader, "_run", run)
    assert len(grader.grade(items, lambda *_: None)) == 300


def test_nothing_to_grade_gives_nothing(grader_directory):
    assert grade(OnnxGrader(grader_directory())) == []


def test_several_columns_may_carry_one_label(grader_directory, make_model):
    # Columns: full refusal, partial refusal, answer; the model's positive column is the last.
    directory = grader_directory(
        make_model(columns=3),
        axis="refusal",
        labels=["answered", "answered", "refused"],
        self_check=[
            {"probe": "bad", "answer": "boom", "label": "refused"},
            {"probe": "bad", "answer": "fine", "label": "answered"},
        ],
    )
    (outcome,) = grade(OnnxGrader(directory), ("bad", "boom"))
    assert outcome == Graded(label="refused", probability=pytest.approx(0.909443, abs=1e-6))


@pytest.mark.parametrize(("label", "expected"), [("harmful", 0.952574), ("harmless", 1 - 0.952574)])
def test_single_column_is_read_as_the_logit_of_its_label(grader_directory, make_model, label, expected):
    other = "harmless" if label == "harmful" else "harmful"
    directory = grader_directory(
        make_model(columns=1),
        labels=[label],
        self_check=[
            {"probe": "bad", "answer": "boom", "label": label},
            {"probe": "bad", "answer": "fine", "label": other},
        ],
    )
    assert grade(OnnxGrader(directory), ("bad", "boom"))[0].probability == pytest.approx(expected, abs=1e-6)


def test_answer_alone_can_be_graded(grader_directory):
    directory = grader_directory(
        encoding="answer",
        self_check=[
            {"probe": "", "answer": "bad bad", "label": "harmful"},
            {"probe": "bad bad", "answer": "fine", "label": "harmless"},
        ],
    )
    assert labels(OnnxGrader(directory), ("", "bad bad"), ("bad bad", "word")) == ["harmful", "harmless"]


def test_empty_answer_is_scored_like_any_other(grader_directory):
    assert labels(OnnxGrader(grader_directory()), ("bad", ""), ("", "")) == ["harmless", "harmless"]


def test_nan_logits_leave_only_that_item_ungraded(grader_directory):
    outcomes = grade(OnnxGrader(grader_directory()), ("bad", "nan"), ("bad", "boom"), ("bad", "word " * 60 + "nan"))
    assert outcomes[0] == NotGraded(cause="logits are not finite in 1 of 1 windows")
    assert outcomes[1].label == "harmful"
    assert outcomes[2] == NotGraded(cause="logits are not finite in 1 of 3 windows")


def test_text_that_is_no_unicode_leaves_only_that_item_ungraded(grader_directory):
    outcomes = grade(OnnxGrader(grader_directory()), ("bad", "boom \ud800"), ("\udfff", "boom"), ("bad", "boom"))
    assert outcomes[0] == NotGraded(cause="answer is not valid Unicode at character 5")
    assert outcomes[1] == NotGraded(cause="probe is not valid Unicode at character 0")
    assert outcomes[2].label == "harmful"


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 4999, 9998, 9999])
def test_one_word_decides_wherever_it_stands_in_ten_thousand(grader_directory, place):
    words = ["word"] * 10_000
    words[place] = "boom"
    assert labels(OnnxGrader(grader_directory()), ("bad", " ".join(words))) == ["harmful"]


@pytest.mark.parametrize("length", range(20, 80))
def test_windows_cover_every_token_with_overlap_and_probe(grader_directory, length):
    grader = OnnxGrader(grader_directory())
    (windows,) = grader._windows([GradingItem(probe="bad", answer=" ".join(["word"] * (length - 1) + ["boom"]))])
    answers = [tuple(i for i, side in zip(ids, types, strict=True) if side)[:-1] for ids, types in windows]
    rebuilt = answers[0] + tuple(token for window in answers[1:] for token in window[4:])
    assert len(rebuilt) == length and rebuilt[-1] == 7
    assert all(ids[:3] == (2, 6, 3) and len(ids) <= 32 for ids, _types in windows)


def test_mean_keeps_one_part_from_deciding(grader_directory):
    answer = "boom " + "word " * 200
    assert labels(OnnxGrader(grader_directory(aggregate="max")), ("bad", answer)) == ["harmful"]
    assert labels(OnnxGrader(grader_directory(aggregate="mean")), ("bad", answer)) == ["harmless"]


def test_long_probe_is_cut_and_leaves_the_answer_whole(grader_directory):
    grader = OnnxGrader(grader_directory())
    assert labels(grader, ("bad " + "word " * 10_000, "word " * 500 + "boom")) == ["harmful"]


def test_window_is_what_the_tokenizer_makes_of_a_pair(grader_directory):
    directory = grader_directory()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    expected = tokenizer.encode("bad word", "boom fine a")
    ((window,),) = OnnxGrader(directory)._windows([GradingItem(probe="bad word", answer="boom fine a")])
    assert window == (tuple(expected.ids), tuple(expected.type_ids))


# -- identity ----------------------------------------------------------------------------------------------------------


def test_identity_says_what_ran(grader_directory):
    identity = OnnxGrader(grader_directory(), provider="cpu").identity
    assert (identity.name, identity.version, identity.family, identity.axis) == ("words", "1", "classifier", "harm")
    assert identity.runtime == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider fp32"
    assert identity.digest.startswith("sha256:") and len(identity.digest) == 71


@pytest.mark.parametrize(
    "change",
    [{"threshold": 0.6}, {"max_tokens": 40}, {"overlap_tokens": 3}, {"aggregate": "mean"}, {"probe_share": 0.4}],
)
def test_digest_changes_with_everything_that_may_change_a_label(grader_directory, change):
    assert OnnxGrader(grader_directory()).identity.digest != OnnxGrader(grader_directory(**change)).identity.digest


def test_digest_is_the_same_wherever_the_directory_lies(grader_directory):
    assert OnnxGrader(grader_directory()).identity == OnnxGrader(grader_directory()).identity


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_inverted_label_map_is_caught_by_the_self_check(grader_directory, make_model):
    directory = grader_directory(make_model(inverted=True))
    assert refused(directory) == (
        f"{directory}/grader.yaml: self-check 1 of 2: expected harmful, got harmless (0.047). Check the order of "
        "`labels`, the `encoding` and that tokenizer and graph belong together."
    )


def test_self_check_that_cannot_be_graded_is_refused(grader_directory):
    checks = [
        {"probe": "bad", "answer": "nan", "label": "harmful"},
        {"probe": "bad", "answer": "fine", "label": "harmless"},
    ]
    assert "self-check 1 of 2: expected harmful, got logits are not finite" in refused(
        grader_directory(self_check=checks)
    )


def test_label_count_that_does_not_match_the_graph_is_refused(grader_directory, make_model):
    message = refused(grader_directory(make_model(columns=3)))
    assert "expected logits for 2 labels (harmless, harmful), got an output of shape [1, 3]" in message


def test_single_column_under_two_labels_is_refused(grader_directory, make_model):
    assert "got an output of shape [1, 1] for 1 windows" in refused(grader_directory(make_model(columns=1)))


def test_missing_tokenizer_is_refused(grader_directory):
    directory = grader_directory()
    (directory / "tokenizer.json").unlink()
    message = refused(directory)
    assert message.startswith(f"{directory}/tokenizer.json: expected a file that grader.yaml lists, got: No such file")


def test_file_that_is_no_tokenizer_is_refused(grader_directory):
    directory = grader_directory()
    content = b'{"model": "none"}'
    (directory / "tokenizer.json").write_bytes(content)
    files = dict(read_grader_file(directory).files) | {"tokenizer.json": hashlib.sha256(content).hexdigest()}
    rewrite(directory, files=files)
    assert f"{directory}/tokenizer.json: expected a tokenizer of the `tokenizers` package, got:" in refused(directory)


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_truncated_or_foreign_graph_is_refused(grader_directory, make_model, content):
    broken = make_model()[:-200] if content is None else content
    directory = grader_directory(broken)
    assert f"{directory}/model.onnx: expected an ONNX graph that onnxruntime" in refused(directory)


def in_versions(graph: bytes, opset: int = 18, ir: int = 9) -> bytes:
    model = onnx.load_from_string(graph)
    model.opset_import[0].version, model.ir_version = opset, ir
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"opset": 99}, r"expected opset \d+ of ai\.onnx or older, as onnxruntime \S+ runs, got opset 99\. "),
        ({"opset": 5}, r"expected opset 7 or newer, as onnxruntime \S+ runs, got opset 5, and: .*Mismatched attribute"),
        ({"ir": 99}, r"expected a file of IR version \d+ or older, as onnxruntime \S+ reads, got 99 \(opset 18\)\. "),
    ],
)
def test_graph_of_another_opset_is_refused_with_both_and_what_to_do(grader_directory, make_model, versions, said):
    directory = grader_directory(in_versions(make_model(), **versions))
    message = refused(directory)
    assert re.match(re.escape(f"{directory}/model.onnx: ") + said, message)
    assert "Export it again with a version that this build runs (`registry-gate grader export` does so)" in message


def test_a_file_that_is_cut_says_no_opset(make_model):
    graph = make_model()
    assert opset_of(graph) == 18 and opset_of(in_versions(graph, opset=300)) == 300
    assert {opset_of(graph[:size]) for size in range(len(graph))} == {None}


@given(st.binary(max_size=200))
def test_any_bytes_have_an_opset_or_none(content):
    assert opset_of(content) is None or isinstance(opset_of(content), int)


def with_external_weights(directory: Path, make_model) -> Path:
    """The grader with its word weights in `weights.bin`, which grader.yaml does not list."""
    (directory / "model.onnx").unlink()
    onnx.save_model(
        onnx.load_from_string(make_model()),
        str(directory / "model.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=64,  # with the overhead of a bytes object: the axis of a sum must stay in the graph
    )
    return directory


def list_files(directory: Path, *names: str) -> None:
    file = directory / "grader.yaml"
    document = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    for name in ("model.onnx", *names):
        document["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    with file.open("w", encoding="utf-8") as stream:
        YAML(typ="safe", pure=True).dump(document, stream)


def test_external_weights_are_those_that_grader_yaml_lists(grader_directory, make_model):
    directory = with_external_weights(grader_directory(), make_model)
    list_files(directory, "weights.bin")
    assert labels(OnnxGrader(directory), ("bad", "boom"), ("bad", "fine")) == ["harmful", "harmless"]
    (directory / "weights.bin").write_bytes(b"\0" * (directory / "weights.bin").stat().st_size)
    assert "weights.bin: expected sha256" in refused(directory)


@pytest.mark.parametrize("beside", [(), ("NOTES.md",)])
def test_weights_that_grader_yaml_does_not_list_are_not_read_wherever_they_lie(
    grader_directory, make_model, monkeypatch, beside
):
    directory = with_external_weights(grader_directory(), make_model)
    (directory / "NOTES.md").write_text("another file", encoding="utf-8")
    list_files(directory, *beside)
    monkeypatch.chdir(directory)  # where ONNX Runtime looks for the weights of a graph that it is given as bytes
    assert "external weights are read only from files that grader.yaml lists" in refused(directory)


def test_no_room_for_the_copy_of_the_weights_is_said(grader_directory, make_model):
    directory = with_external_weights(grader_directory(), make_model)
    with (directory / "weights.bin").open("ab") as file:
        file.write(bytes(3 << 20))
    list_files(directory, "weights.bin")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # what a full disk is to whoever writes
    try:
        message = refused(directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"{directory}/weights.bin: expected room for a copy of it in ")
    assert "set TMPDIR to a directory on a disk" in message


def test_changed_file_is_refused(grader_directory):
    directory = grader_directory()
    with (directory / "model.onnx").open("ab") as file:
        file.write(b"\0")
    message = refused(directory)
    assert message.startswith(f"{directory}/model.onnx: expected sha256 ")
    assert "restore it, or describe the new one as a new grader version" in message


def test_window_longer_than_the_model_is_refused_when_loaded(grader_directory, make_model):
    message = refused(grader_directory(make_model(positions=20)))
    assert "expected 1 windows of up to 32 tokens to be scored, got:" in message
    assert "Is max_tokens more than the model has positions for" in message
    assert OnnxGrader(grader_directory(make_model(positions=32))).identity.name == "words"


def test_graph_with_two_unnamed_outputs_is_refused(grader_directory, make_model):
    assert "expected an output `logits` or a single output, got first, second" in refused(
        grader_directory(make_model(extra_output=True))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treshold": 0.5}, "treshold: Extra inputs are not permitted"),
        ({"threshold": None}, "threshold: Field required"),
        ({"threshold": 1.5}, "threshold: Input should be less than 1"),
        ({"version": 1}, "version: Input should be a valid string"),
        ({"axis": "mood"}, "axis: Input should be 'refusal', 'harm', 'caveat' or 'toxicity'"),
        (
            {"labels": ["LABEL_0", "LABEL_1"]},
            "document: labels: expected 'harmless' or 'harmful' on axis harm",
        ),
        ({"labels": ["harmful", "harmful"]}, "labels: expected both 'harmless' and 'harmful'"),
        ({"labels": ["answered", "refused"]}, "expected 'harmless' or 'harmful' on axis harm, got 'answered'"),
        ({"self_check": []}, "self_check: List should have at least 2 items"),
        (
            {"self_check": [{"probe": "bad", "answer": "boom", "label": "harmful"}] * 2},
            "self_check: expected pairs of both labels",
        ),
        ({"overlap_tokens": 8}, "overlap_tokens: expected less than a quarter of max_tokens (32), got 8"),
        ({"model": "other.onnx"}, "files: expected the sha256 of other.onnx"),
        ({"files": {"model.onnx": "00"}}, "model.onnx: expected 64 lower-case hex digits of sha256, got '00'"),
        ({"files": {"../model.onnx": "0" * 64}}, "expected file names without a folder, got '../model.onnx'"),
        ({"probe_share": 0.95}, "expected a window with more room for the answer than overlap_tokens (4)"),
    ],
)
def test_wrong_description_is_refused_with_file_and_key(grader_directory, change, message):
    directory = grader_directory(**change)
    said = refused(directory)
    assert said.startswith(f"{directory}/grader.yaml: ")
    assert message in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [", "expected readable YAML"),
        (b"name: a\nname: b\n", "expected readable YAML"),
        (b"\xff\xfe\xff", "expected readable YAML"),
        (b"", "document: Input should be a valid dictionary"),
    ],
)
def test_unreadable_description_is_refused(grader_directory, content, message):
    directory = grader_directory()
    (directory / "grader.yaml").write_bytes(content)
    assert message in refused(directory)


def test_directory_without_description_is_refused(tmp_path):
    assert refused(tmp_path) == f"{tmp_path}/grader.yaml: expected a grader description, got no such file"


def test_no_threads_are_refused(grader_directory):
    assert "expected threads and batch_tokens of at least 1, got 0 and the default" in refused(
        grader_directory(), threads=0
    )


# -- providers ---------------------------------------------------------------------------------------------------------


def test_unknown_provider_is_refused(grader_directory):
    assert refused(grader_directory(), provider="tpu") == (
        "grader provider: expected auto, tensorrt, cuda, cpu, got 'tpu'"
    )


def test_provider_that_is_not_built_in_is_refused(grader_directory, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    message = refused(grader_directory(), provider="cuda")
    assert message.startswith("grader words: expected CUDAExecutionProvider, got an onnxruntime ")
    assert "built with only CPUExecutionProvider" in message


def test_provider_that_the_session_did_not_get_is_refused(grader_directory, monkeypatch):
    # What a build with CUDA does on a machine without: the session silently runs on the CPU.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _self: ["CPUExecutionProvider"])
    message = refused(grader_directory(), provider="cuda")
    assert message.startswith("grader words: expected CUDAExecutionProvider, got CPUExecutionProvider.")
    assert "install them, or ask for cpu" in message


def test_auto_records_the_provider_that_the_session_has(grader_directory):
    grader = OnnxGrader(grader_directory(), provider="auto")
    assert grader.identity.runtime.split()[2] == grader._session.get_providers()[0]


def test_auto_that_ends_on_the_cpu_loads_the_graph_as_for_a_cpu(grader_directory, monkeypatch):
    # A driver whose libraries do not fit: the build has CUDA, the session silently gets none.
    monkeypatch.setattr(onnx_grader, "_NVIDIA_DRIVER", (Path("/"),))
    asked = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, graph, options, providers, disabled_optimizers):
            asked.append(([name for name, _ in providers], disabled_optimizers))
            super().__init__(graph, options, ["CPUExecutionProvider"], disabled_optimizers=disabled_optimizers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    grader = OnnxGrader(grader_directory(), provider="auto")
    assert grader.identity.runtime.split()[2] == "CPUExecutionProvider"
    assert asked == [
        (["CUDAExecutionProvider", "CPUExecutionProvider"], []),
        (["CPUExecutionProvider"], onnx_grader.SLOWER_ON_CPU),
    ]


def test_importing_graders_loads_no_heavy_package():
    code = (
        "import sys, evaluators.graders.catalogue as c\n"
        "from evaluators.graders.interface import GradingItem\n"
        "grader = c.load_grader('refusal-rules')\n"
        "print(grader.grade([GradingItem(probe='', answer='I cannot.')], lambda *_: None)[0].label)\n"
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'tokenizers', 'onnx'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4]
    )
    assert done.stdout.splitlines() == ["refused", "[]"]


def rewrite(directory, **changes):
    yaml = YAML(typ="safe", pure=True)
    path = directory / "grader.yaml"
    document = yaml.load(path.read_text(encoding="utf-8")) | changes
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)
