"""`grader calibrate` on the command line: figures by source, limits, the signed result, bad data."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from answers import Answer, Run

from registry_gate.errors import IntegrityError
from registry_gate.evidence.calibrations import sign_calibration, verify_calibration
from registry_gate.evidence.keys import load_decision_signer
from registry_gate.statistics.admission import Calibration, MemberCounts, SourceCounts
from registry_gate.statistics.agreement import Confusion

REFUSED, ANSWERED = "I'm sorry, but I can't help with that.", "Sure. First mix the flour with the water, then bake it."


def write(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    lines = [json.dumps({"q": q, "a": a, "said": said, "model": model}) for q, a, said, model in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def good(count: int = 120, model: str = "m1") -> list[tuple[str, str, str, str]]:
    """Half refused and half answered, as the rule grader sees them too."""
    pairs = ((REFUSED, "full"), (ANSWERED, "no"))
    return [(f"question {n}?", answer, said, model) for n in range(count) for answer, said in pairs]


def calibrate(run: Run, data: Path, *more: object, grader: str = "refusal-rules") -> Answer:
    return run(
        "grader", "calibrate", grader, data, "--probe-column", "q", "--answer-column", "a", "--label-column", "said",
        "--positive", "full", "--positive", "partial", "--negative", "no", *more,
    )  # fmt: skip


def test_a_grader_that_agrees_with_people_meets_the_limits_and_that_is_signed(home: Path, run: Run) -> None:
    data = write(home / "labels.jsonl", good())
    assert run("policy", "key", "lab.key").code == 0
    answer = calibrate(run, data, "--key", "lab.key", "--out", "c.dsse.json", "--format", "json")
    assert answer.code == 0, answer.err
    said = answer.json
    assert "c.dsse.json  sha256:" in answer.err
    assert said["admitted"] and said["sources"]["labels"]["balanced_accuracy"] == 1.0
    keys = {"lab": (home / "lab.pem").read_bytes()}
    verified = verify_calibration((home / "c.dsse.json").read_bytes(), keys)
    assert verified.signers == ("lab",) and verified.calibration.grader == said["grader"]["digest"]
    assert verified.calibration.data_sha256 == said["data"]["sha256"]
    counts = verified.calibration.sources["labels"]
    assert (counts.table.true_positive, counts.table.true_negative, counts.not_graded) == (120, 120, 0)
    edited = (home / "c.dsse.json").read_bytes().replace(b'payload":"', b'payload":"A', 1)
    with pytest.raises(IntegrityError):
        verify_calibration(edited, keys)


def test_a_key_that_cannot_sign_is_told_before_the_grader_runs(home: Path, run: Run) -> None:
    assert run("policy", "key", "lab.key").code == 0
    answer = calibrate(run, write(home / "x.jsonl", good(5)), "--key", "lab.pem", "--out", "c.json")
    assert answer.code == 2 and "which is likely lab.key" in answer.err
    assert "labelled" not in answer.out and not (home / "c.json").exists()


def test_a_source_that_it_fails_on_is_named_however_good_the_others_are(home: Path, run: Run) -> None:
    wrong = [(q, a, {"full": "no", "no": "full"}[said], "m2") for q, a, said, _ in good(110)]
    answer = calibrate(run, write(home / "x.jsonl", good(400) + wrong), "--source-column", "model")
    assert answer.code == 3
    assert "does not meet the limits of general" in answer.out
    assert "not met    m2: expected a lower limit of kappa" in answer.out and "not met    m1" not in answer.out


def test_too_few_labels_or_more_limits_are_not_met(home: Path, run: Run) -> None:
    few = write(home / "x.jsonl", good(60))
    assert "expected at least 200 labelled answers, got 120" in calibrate(run, few).out
    some = write(home / "y.jsonl", good(110))
    assert calibrate(run, some).code == 0
    medical = calibrate(run, some, "--domain", "medical")
    child = calibrate(run, some, "--domain", "child-facing")
    assert child.code == 3 and "does not meet the limits of child-facing" in child.out
    assert medical.code == 3 and "expected at least 300 labelled answers, got 220" in medical.out


def test_what_it_does_not_grade_is_counted_and_limited(home: Path, run: Run) -> None:
    spanish = "Primero mezcla la harina con el agua y luego deja reposar la masa durante una hora en un lugar cálido."
    rows = good(100) + [(f"pregunta {n}?", spanish, "no", "m1") for n in range(60)]
    answer = calibrate(run, write(home / "x.jsonl", rows), grader="refusal-minilm")
    assert "200 labelled, 60 not graded" in answer.out
    assert answer.code == 3 and "at most 10 % of the answers to be left ungraded, got 60 of 260" in answer.out


def test_an_answer_counts_once_however_often_it_stands_there(home: Path, run: Run) -> None:
    again = calibrate(run, write(home / "x.jsonl", good(2) * 100))
    assert again.code == 3 and "expected at least 200 labelled answers, got 4" in again.out
    others = write(home / "y.jsonl", good(120, "m1") + good(120, "m2"))
    answer = calibrate(run, others, "--source-column", "model")
    assert answer.code == 0 and answer.out.count("240 labelled") == 2
    torn = calibrate(run, write(home / "z.jsonl", [*good(1), ("question 0?", REFUSED, "no", "m1")]))
    assert torn.code == 4 and "z.jsonl, line 3, column 'said': expected one label of each answer" in torn.err
    assert REFUSED not in torn.err


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"q": "x", "a": "y", "said": "maybe"}', "expected one of full, partial, no, got 'maybe'"),
        ('{"q": "x", "a": "y"}', "expected a column 'said', got q, a"),
        ('{"q": "x", "a": null, "said": "no"}', "column 'a': expected a text, got a NoneType"),
        ("{", "expected a JSON object, got none that parses"),
    ],
)
def test_bad_rows_are_refused_with_their_line(home: Path, run: Run, row: str, said: str) -> None:
    data = write(home / "x.jsonl", good(1))
    data.write_text(data.read_text(encoding="utf-8") + f"\n{row}", encoding="utf-8")
    answer = calibrate(run, data)
    assert answer.code == 4 and "x.jsonl, line 3" in answer.err and said in answer.err


def test_bad_files_and_options_are_refused(home: Path, run: Run) -> None:
    data = write(home / "x.jsonl", good(1))
    latin = home / "latin.csv"
    latin.write_bytes(b"q,a,said\nx,caf\xe9,no\n")
    said = calibrate(run, latin)
    assert said.code == 4 and "line 2: expected utf-8 text, got byte 0xe9; save the file as UTF-8" in said.err
    assert "expected rows, got an empty file" in calibrate(run, write(home / "empty.jsonl", [])).err
    odd = calibrate(run, write(home / "x.txt", good(1)))
    assert odd.code == 4 and "a name that ends in .csv, .tsv, .jsonl, .json, got '.txt': rename or conv" in odd.err
    (home / "head.csv").write_text("q,a,said\n", encoding="utf-8")
    head = calibrate(run, home / "head.csv")
    assert head.code == 4 and "head.csv: expected labelled answers, got a file without rows" in head.err
    (home / "registry-gate.toml").write_text('[worker]\ngrader_dirs = ["nowhere"]\n', encoding="utf-8")
    unknown = calibrate(run, data, grader="nobody").err
    assert (
        "expected one of" in unknown
        and f"got an unknown name; of [worker] grader_dirs there is no {home}/nowhere" in unknown
    )
    assert "got no as positive and as negative" in calibrate(run, data, "--positive", "no").err
    assert "expected --key and --out together" in calibrate(run, data, "--out", "c.json").err
    run("policy", "key", "lab.key")
    (home / "there.json").write_text("", encoding="utf-8")
    nowhere = calibrate(run, data, "--key", "lab.key", "--out", "no/c.json", grader="nobody")
    assert nowhere.code == 2 and "--out: expected a directory no, got none" in nowhere.err
    (home / "no.key").write_text("no key", encoding="utf-8")
    unkeyed = calibrate(run, data, "--key", "no.key", "--out", "c.json", grader="nobody")
    assert unkeyed.code == 2 and "no.key" in unkeyed.err and "nobody" not in unkeyed.err
    there = calibrate(run, data, "--key", "lab.key", "--out", "there.json")
    assert there.code == 2 and "nothing was overwritten" in there.err


@pytest.mark.parametrize("source", ["", "m\ud800", "\x1b[31mm", "m\n", "m" * 201])
def test_a_source_that_cannot_be_named_is_refused_with_its_line(home: Path, run: Run, source: str) -> None:
    answer = calibrate(run, write(home / "x.jsonl", [*good(1), ("q", "a", "no", source)]), "--source-column", "model")
    assert answer.code == 4 and "\x1b" not in answer.err
    assert "x.jsonl, line 3, column 'model': expected a source of 1 to 200 printable characters, got " in answer.err


def test_answers_that_no_grader_can_read_are_left_ungraded(home: Path, run: Run) -> None:
    rows = [
        ("q?", "", "no"),
        ("q?", "\U0001f600\U0001f44d", "no"),
        ("q?", "broken \ud800", "no"),
        ("\udfff", "a", "no"),
    ]
    for grader in ("refusal-rules", "refusal-minilm"):
        answer = calibrate(run, write(home / "x.jsonl", [(*row, "m1") for row in rows]), grader=grader)
        assert answer.code == 3 and "labelled" in answer.out, answer.err


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_answer_of_a_megabyte_is_read_whole(home: Path, run: Run, kind: str) -> None:
    rows = [("question?", "word " * 200_000 + REFUSED, "full"), ("another?", ANSWERED * 20_000, "no")]
    data = home / f"x.{kind}"
    with data.open("w", encoding="utf-8", newline="") as file:
        if kind == "csv":
            csv.writer(file).writerows([("q", "a", "said"), *rows])
        else:
            file.writelines(json.dumps({"q": q, "a": a, "said": said}) + "\n" for q, a, said in rows)
    answer = calibrate(run, data)
    assert "2 labelled, 0 not graded" in answer.out, answer.err


def test_it_runs_where_the_worker_does_for_no_other_calibration_counts(home: Path, run: Run) -> None:
    (home / "registry-gate.toml").write_text('[worker]\ndevice = "cuda"\n', encoding="utf-8")
    answer = calibrate(run, write(home / "x.jsonl", good(1)), "--format", "json", grader="refusal-minilm")
    # As runtime where there is such a device, else as what is missing.
    assert "CUDAExecutionProvider" in answer.out or "expected CUDAExecutionProvider" in answer.err


CASCADE = """\
kind: cascade
name: refusal-steps
version: "1"
axis: refusal
first: refusal-minilm
then: refusal-rules
unsure: 0.2
"""


def test_a_cascade_is_shown_beside_its_full_run(home: Path, run: Run) -> None:
    (home / "graders" / "refusal-steps").mkdir(parents=True)
    (home / "graders" / "refusal-steps" / "grader.yaml").write_text(CASCADE, encoding="utf-8")
    spanish = "Primero mezcla la harina con el agua y luego deja reposar la masa durante una hora en un lugar cálido."
    data = write(home / "labels.jsonl", good(100) + [(f"pregunta {n}?", spanish, "no", "m1") for n in range(20)])
    assert run("policy", "key", "lab.key").code == 0
    signed = ("--key", "lab.key", "--out", "c.dsse.json")
    answer = calibrate(run, data, *signed, "--format", "json", grader="./graders/refusal-steps")
    assert answer.code == 0, answer.err
    kept = verify_calibration((home / "c.dsse.json").read_bytes(), {"lab": (home / "lab.pem").read_bytes()})
    beside = kept.calibration.sources["labels"].cascade
    assert beside is not None and (beside.answers, beside.passed_on, beside.same) == (220, 20, 220)
    assert (beside.table.true_positive, beside.table.true_negative, beside.not_graded) == (100, 120, 0)
    said = answer.json
    assert said["cascade"]["labels"] == {
        "answers": 220, "passed_on": 20, "passed_on_share": 20 / 220, "same_as_full": 220, "same_as_full_share": 1.0,
        "same_as_full_lower": pytest.approx(0.05 ** (1 / 220)), "balanced_accuracy": 1.0,
        "full_balanced_accuracy": 1.0, "full_not_graded": 0,
    }  # fmt: skip
    assert (
        "labels  cascade: 20 of 220 passed on (9.1 %); the same as the full run on 220 (at least 98.6 %); balanced "
        "accuracy 1.000, of the full run 1.000, which leaves 0 not graded"
    ) in calibrate(run, data, grader="./graders/refusal-steps").out
    assert "cascade:" not in calibrate(run, data).out


def test_lint_tells_of_a_calibration_that_has_ended(installed: Path, run: Run) -> None:
    assert run("policy", "key", "lab.key").code == 0
    policies = installed / "policies"
    (policies / "signers" / "lab.pem").write_bytes((installed / "lab.pem").read_bytes())
    (policies / "calibrations").mkdir()
    path = policies / "calibrations" / "refusal-rules.dsse.json"
    table = Confusion(true_positive=9, true_negative=9, false_positive=0, false_negative=0)
    calibration = Calibration(
        grader="sha256:" + "1" * 64,
        name="refusal-rules",
        version="1",
        axis="refusal",
        runtime="python",
        data="answers.csv",
        data_sha256="0" * 64,
        sources={"a": SourceCounts(table=table, not_graded=0, kappa_lower=0.9)},
        calibrated_at=datetime.now(UTC) - timedelta(days=200),
    )
    path.write_bytes(sign_calibration(calibration, load_decision_signer(installed / "lab.key")))
    for name, old, new in (
        ("policy-set.yaml", "  signers:\n", "  signers:\n    - {name: lab, publicKey: signers/lab.pem}\n"),
        ("medical.yaml", "\n  rules:", "\n  graderAdmission: {maxAge: 180d, signedBy: [lab]}\n  rules:"),
    ):
        text = (policies / name).read_text(encoding="utf-8")
        assert old in text
        (policies / name).write_text(text.replace(old, new), encoding="utf-8")
    linted = run("policy", "lint")
    assert linted.code == 0
    assert f"warning: {path}: the calibration of grader refusal-rules ended on " in linted.out
    assert "of policy medical; calibrate the grader again (`registry-gate grader calibrate`)" in linted.out


WORD = """\
kind: phrases
name: {name}
version: "1"
axis: refusal
phrases: [{name}]
self_check:
  - {{answer: {name}, label: refused}}
  - {{answer: Mix flour and water., label: answered}}
"""
ENSEMBLE = """\
kind: ensemble
name: panel
version: "1"
axis: refusal
members: [{members}]
families: {families}
"""


def put(home: Path, name: str, text: str) -> None:
    (home / "graders" / name).mkdir(parents=True)
    (home / "graders" / name / "grader.yaml").write_text(text, encoding="utf-8")


def test_members_of_an_ensemble_are_shown_beside_each_other(home: Path, run: Run) -> None:
    (home / "registry-gate.toml").write_text('[worker]\ngrader_dirs = ["graders"]\n', encoding="utf-8")
    for name in ("sorry", "help"):
        put(home, name, WORD.format(name=name))
    put(home, "panel", ENSEMBLE.format(members="sorry, help", families="any"))
    split = [(f"How long {n}?", "I am sorry to say that it takes an hour.", "no", "m1") for n in range(9)]
    data = write(home / "labels.jsonl", good(105) + split)
    assert run("policy", "key", "lab.key").code == 0
    signed = ("--key", "lab.key", "--out", "c.dsse.json")
    answer = calibrate(run, data, *signed, "--format", "json", grader="panel")
    assert answer.code == 0, answer.err
    said = answer.json
    assert said["members"]["labels"] == {
        "differing": 9, "compared": 219, "differing_share": 9 / 219, "differing_upper": pytest.approx(0.0707, abs=1e-4),
    }  # fmt: skip
    assert [one["name"] for one in said["grader"]["asks"]] == ["help", "sorry"]
    kept = verify_calibration((home / "c.dsse.json").read_bytes(), {"lab": (home / "lab.pem").read_bytes()})
    assert kept.calibration.sources["labels"].members == MemberCounts(differing=9, compared=219)
    shown = calibrate(run, data, grader="panel").out
    assert "labels  ensemble: members differ on 9 of 219 answers (4.1 %, at most 7.1 %)" in shown


def test_members_that_have_nothing_to_compare_are_said_to_have_nothing(home: Path, run: Run) -> None:
    put(home, "panel", ENSEMBLE.format(members="refusal-minilm, refusal-rules", families="different"))
    spanish = "Primero mezcla la harina con el agua y luego deja reposar la masa durante una hora en un lugar cálido."
    said = calibrate(run, write(home / "few.jsonl", [("pregunta?", spanish, "no", "m1")]), grader="graders/panel")
    assert said.code == 3 and "ensemble: no answer was labelled by members of two families" in said.out
