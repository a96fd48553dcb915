"""`grader list` and `grader pull`: from a directory, S3 and the hub; trusted the first time, refused when changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import Run
from loopback import COMMIT, Hub, hub_on_loopback, s3_on_loopback

from evaluators.graders.catalogue import load_grader
from evaluators.graders.checkpoint import open_checkpoint
from evaluators.graders.pulling import catalogue
from registry_gate.errors import AssessmentError

SHIPPED = Path(__file__).parents[4] / "evaluators" / "graders" / "builtin" / "refusal-minilm"
CHECKPOINT = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "README.md": b"a card",
    "pytorch_model.bin": b"a pickle",
    "modeling_own.py": b"code",
    "onnx/model.onnx": b"below the top",
}
LEFT_OUT = ["modeling_own.py", "onnx/model.onnx", "pytorch_model.bin"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A grader that somebody published in a directory."""
    place = Path(shutil.copytree(SHIPPED, tmp_path / "published" / "refusal-x"))
    file = place / "grader.yaml"
    file.write_text(file.read_text().replace("name: refusal-minilm", "name: refusal-x", 1))
    return place


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    with hub_on_loopback(monkeypatch, tmp_path) as files:
        yield files


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_on_loopback(monkeypatch, "models") as client:
        yield client


def lock(home: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((home / "graders" / "graders.lock").read_text())
    return document


def test_a_grader_is_pulled_locked_listed_and_loaded(home: Path, run: Run, source: Path) -> None:
    answer = run("grader", "pull", source, "--to", "graders")
    assert answer.code == 0, answer.err
    assert f"graders/refusal-x  {source}: " in answer.out and answer.out.strip().endswith("locked")
    files = lock(home)["graders"]["refusal-x"]["files"]
    assert files.keys() == {path.name for path in (home / "graders" / "refusal-x").iterdir()}
    assert files["grader.yaml"]["size"] == (source / "grader.yaml").stat().st_size
    assert "as pulled before" in run("grader", "pull", source, "--to", "graders").out
    assert load_grader("refusal-x", directories=[home / "graders"]).identity.name == "refusal-x"
    (home / "registry-gate.toml").write_text('[worker]\ngrader_dirs = ["graders"]\n')
    listed = run("grader", "list", "--format", "json").json
    assert "refusal-x" in listed["graders"] and "refusal-rules" in listed["graders"]
    assert listed["pulled"][str(home / "graders" / "refusal-x")]["source"] == str(source)
    assert listed["catalogue"].keys() == catalogue().keys()
    shown = run("grader", "list").out
    assert "pulled     " in shown and "catalogue  rejection-v1  hf://protectai/" in shown
    assert run("grader", "pull", source, "--name", "again").code == 0
    assert (home / "graders" / "again").is_dir()


def test_what_changed_at_its_source_is_refused_and_nothing_is_replaced(home: Path, run: Run, source: Path) -> None:
    assert run("grader", "pull", source, "--to", "graders").code == 0
    before, kept = lock(home), (home / "graders" / "refusal-x" / "grader.yaml").read_bytes()
    (source / "grader.yaml").write_bytes(kept + b"# looser\n")
    (source / "NOTICE").write_bytes(b"new")
    answer = run("grader", "pull", source, "--to", "graders")
    assert answer.code == 4
    assert "expected NOTICE to be what was pulled first, no such file, got " in answer.err
    assert "and 1 more files differ. Nothing was replaced. If the new one is meant" in answer.err
    assert lock(home) == before and (home / "graders" / "refusal-x" / "grader.yaml").read_bytes() == kept
    assert not list((home / "graders").glob(".pull-*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda place: (place / "grader.yaml").write_bytes(b"x"), "expected grader.yaml to be what was pulled first"),
        (lambda place: (place / "extra.json").write_bytes(b"x"), "expected extra.json to be what was pulled first"),
        (lambda place: (place / "tokenizer.json").unlink(), "expected tokenizer.json to be what was pulled first"),
    ],
    ids=["changed", "added", "removed"],
)
def test_what_changed_on_the_disk_is_not_loaded(home: Path, run: Run, source: Path, change: Any, named: str) -> None:
    assert run("grader", "pull", source, "--to", "graders").code == 0
    change(home / "graders" / "refusal-x")
    with pytest.raises(AssessmentError, match=named) as caught:
        load_grader("refusal-x", directories=[home / "graders"])
    assert caught.value.code == "grader_changed"


def test_the_lock_holds_however_the_directory_is_called(
    home: Path, run: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("grader", "pull", source, "--to", "graders").code == 0
    place = home / "graders" / "refusal-x"
    (home / "link").symlink_to(place)
    (place / "grader.yaml").write_bytes((place / "grader.yaml").read_bytes() + b"# looser\n")
    for name in ("graders/refusal-x", "graders/../graders/refusal-x/", "./link"):
        with pytest.raises(AssessmentError, match=r"expected grader\.yaml to be what was pulled first"):
            load_grader(name)
    monkeypatch.chdir(place)
    with pytest.raises(AssessmentError, match=r"expected grader\.yaml to be what was pulled first"):
        load_grader("./")
    monkeypatch.chdir(home)
    shutil.rmtree(place)
    with pytest.raises(AssessmentError, match=r"to be what was pulled first, .* got none"):
        load_grader("graders/refusal-x")


def test_a_lock_that_cannot_be_read_trusts_nothing(home: Path, run: Run, source: Path) -> None:
    assert run("grader", "pull", source, "--to", "graders").code == 0
    for text in ("{", '{"format": "registry-gate/graders-lock@2", "graders": {}}', '{"graders": {}}'):
        (home / "graders" / "graders.lock").write_text(text)
        with pytest.raises(AssessmentError, match="expected what `registry-gate grader pull` writes"):
            load_grader("refusal-x", directories=[home / "graders"])
        answer = run("grader", "pull", source, "--to", "graders")
        assert answer.code == 4 and "pydantic" not in answer.err


def test_one_name_is_one_source(home: Path, run: Run, source: Path) -> None:
    assert run("grader", "pull", source, "--to", "graders").code == 0
    other = Path(shutil.copytree(source, source.parent.parent / "other" / "refusal-x"))
    answer = run("grader", "pull", other, "--to", "graders")
    assert answer.code == 4 and f"expected {source}, which graders.lock names, got {other}" in answer.err
    (home / "graders" / "mine").mkdir()
    unknown = run("grader", "pull", source, "--to", "graders", "--name", "mine")
    assert unknown.code == 4 and "got one that graders.lock does not know" in unknown.err


def test_a_classifier_comes_from_the_hub_at_one_commit(home: Path, run: Run, hub: type[Hub]) -> None:
    hub.files = CHECKPOINT
    answer = run("grader", "pull", "hf://owner/set", "--to", "graders", "--format", "json")
    assert answer.code == 0, answer.err
    said = json.loads(answer.out[answer.out.index("{") :])
    assert (said["revision"], said["skipped"], said["known"]) == (COMMIT, LEFT_OUT, False)
    place = home / "graders" / "set"
    assert {path.name for path in place.iterdir()} == CHECKPOINT.keys() - set(LEFT_OUT)
    # It is held to that by `grader export` too.
    (place / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(AssessmentError, match=r"expected model\.safetensors to be what was pulled first"):
        open_checkpoint(place)
    gone = run("grader", "pull", "hf://owner/none", "--to", "graders")
    assert gone.code == 4 and "expected to fetch hf://owner/none, got " in gone.err
    assert run("grader", "pull", "hf://owner", "--to", "graders").code == 4


def test_a_classifier_comes_from_s3(home: Path, run: Run, bucket: Any) -> None:
    for name, body in CHECKPOINT.items():
        bucket.put_object(Bucket="models", Key=f"a/clf/{name}", Body=body)
    answer = run("grader", "pull", "s3://models/a/clf", "--to", "graders")
    assert answer.code == 0, answer.err
    assert f"left out: {', '.join(LEFT_OUT)}" in answer.out
    bucket.put_object(Bucket="models", Key="a/clf/config.json", Body=b"{ }")
    changed = run("grader", "pull", "s3://models/a/clf", "--to", "graders")
    assert changed.code == 4 and "expected config.json to be what was pulled first" in changed.err
    nothing = run("grader", "pull", "s3://models/b", "--to", "graders")
    assert nothing.code == 4 and "got neither among no files" in nothing.err
    assert "NoSuchBucket" in run("grader", "pull", "s3://nowhere/a", "--to", "graders").err
    assert run("grader", "pull", "s3://models", "--to", "graders").code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nowhere", "--to", "graders"), 4, "expected a name of the catalogue (rejection-v1, "),
        (("published",), 2, "give --to, or set [worker] grader_dirs"),
        (("published", "--to", "graders", "--name", "../up"), 2, "expected small letters, digits, dots and dashes"),
        (("empty", "--to", "graders"), 4, "got neither among no files: is it the right place?"),
    ],
)
def test_what_cannot_be_pulled_is_said(home: Path, run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    (home / "empty").mkdir()
    answer = run("grader", "pull", *arguments)
    assert answer.code == code and said in answer.err
    assert not (home / "graders" / "graders.lock").exists()


def test_the_catalogue_exports_what_it_names() -> None:
    for name, entry in catalogue().items():
        assert entry.source.startswith("hf://") and entry.note, name
        assert entry.labels is None or entry.axis is not None, name
