"""`grader export` on the command line: answers, exit codes, and what is said of wrong arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from answers import Run

sys.path.insert(0, str(Path(__file__).parents[2] / "evaluators" / "graders"))

from checkpoint_builders import make_checkpoint

LABELS = "NORMAL=answered,REJECTION=refused"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("bert") / "Tiny Refusals")


def test_export_writes_graders_and_says_how_they_agree(published: Path, home: Path, run: Run) -> None:
    answer = run(
        "grader", "export", published, "--axis", "refusal", "--labels", LABELS, "--out", "graders",
        "--precision", "int8", "--format", "json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    (made,) = answer.json
    assert made["directory"] == "graders/tiny-refusals-int8"
    record = json.loads((home / made["directory"] / "parity.json").read_text())
    assert made["digest"] == record["digest"]
    assert made["agreement"].startswith(f"{record['same_labels']} of 249 labels equal")
    assert [path.name for path in (home / "graders").iterdir()] == ["tiny-refusals-int8"]


def test_a_build_that_differs_ends_with_3_and_a_model_that_cannot_be_used_with_4(
    published: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluators.graders import export

    common = ("--axis", "refusal", "--precision", "fp32", "--out", "graders")
    monkeypatch.setitem(export.BOUNDS, "fp32", export.Bound(same_labels=1, difference=-1))
    answer = run("grader", "export", published, *common, "--labels", LABELS)
    assert (answer.code, answer.out) == (3, "")
    assert "Nothing was kept" in answer.err
    answer = run("grader", "export", published, *common, "--labels", "REJECTION=refused")
    assert answer.code == 4
    assert "for each of the model's labels (NORMAL, REJECTION), got one for REJECTION" in answer.err
    assert not (home / "graders").exists()


def test_a_place_that_cannot_be_written_to_is_a_sentence(published: Path, home: Path, run: Run) -> None:
    (home / "file").write_text("", encoding="utf-8")
    common = ("--axis", "refusal", "--labels", LABELS, "--precision", "fp32")
    answer = run("grader", "export", published, *common, "--out", "file/graders")
    assert answer.code == 4
    assert "file/graders: expected a directory that graders can be written to, got: Not a directory" in answer.err


@pytest.mark.parametrize(
    ("labels", "message"),
    [("refused", "expected MODEL_LABEL=LABEL"), ("A=refused,A=answered", "expected 'A' once, got it twice")],
)
def test_wrong_label_maps_are_usage(home: Path, run: Run, labels: str, message: str) -> None:
    answer = run("grader", "export", home, "--axis", "refusal", "--labels", labels, "--out", "graders")
    assert (answer.code, answer.out) == (2, "")
    assert message in " ".join(answer.err.split())


def test_missing_packages_are_named(published: Path, home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [
        name for name in sys.modules if name.startswith(("evaluators.graders.export", "registry_gate.worker.exp"))
    ]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "onnx", None)
    answer = run("grader", "export", published, "--axis", "refusal", "--labels", LABELS, "--out", "graders")
    assert answer.code == 2
    assert "pip install 'registry-gate[worker,export]'" in answer.err
