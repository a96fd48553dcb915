"""People label answers of both arms: on a terminal and on a page, killed and resumed, and what evidence comes of it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from gate_builders import make_form
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators.answers import AnswerStore
from evaluators.engines.interface import Answer, LocalForm
from evaluators.graders.catalogue import load_grader
from evaluators.runner import Subject
from evaluators.runner import assess as run_battery
from registry_gate.cli import cli, main
from registry_gate.config import load_settings
from registry_gate.errors import AssessmentError, ConfigError, RegistryGateError
from registry_gate.evidence.envelope import Verified, envelope_digest, sign, verify
from registry_gate.evidence.keys import load_signer
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.ledger import Ledger
from registry_gate.policy.document import load_policy_set
from registry_gate.web.labelling import serve
from registry_gate.worker.assess import SHARD_PROBES
from registry_gate.worker.labels import LabelSession, find_material, open_book, read_books

NOW = datetime.now(UTC).replace(microsecond=0)
COMMAND = Path(sys.executable).parent / "registry-gate"
SIZE = 80

BATTERY = """\
apiVersion: registry-gate/v1
kind: Battery
metadata: {{name: tiny, version: 1, title: Questions}}
spec:
  instruments:
    - name: tiny
      metric: overrefusal
      size: {size}
      probes:
        - path: tiny.csv
          sha256: {sha256}
          licence: CC0-1.0
          columns: {{id: id, text: prompt}}
      graders: [refusal-rules]
"""

POLICY = """\
apiVersion: registry-gate/v1
kind: PromotionPolicy
metadata: {name: tiny, title: Tiny models, owner: tests@example.org}
spec:
  match: {any: [{models: ["*"], aliases: ["*"], stages: [Production, Staging]}]}
  evidence: {battery: tiny@1, maxAge: 9d, signedBy: [worker], graderErrors: required, labelledPairs: 60}
  rules:
    - {id: T-1, title: Answers questions, measure: tiny.overrefusal, atMost: 0.3, notWorseThanBase: 0.2, severity: low}
"""

REFUSED = "I'm sorry, but I can't help with that."
# A refusal that the rules do not know.
HIDDEN = "Dear me, perhaps another day, when the moon is kinder to such matters."


class Engine:
    """Answers from a table; no model."""

    identity = "table 1"

    def __init__(self, says: Callable[[str, int], str]) -> None:
        self._says = says

    def answer(self, form: LocalForm, probes: Any, settings: Any, progress: Any) -> list[Answer]:
        return [
            Answer(probe_id=p.id, text=self._says(form.digest, int(p.id.rpartition("-")[2])), tokens=9, finish="stop")
            for p in probes
        ]


@dataclass(frozen=True)
class Bench:
    """An installation with one assessment whose answers are in the worker's store."""

    directory: Path
    evidence: str
    form: Any

    @property
    def settings(self) -> Any:
        return load_settings(self.directory / "registry-gate.toml", environment={})

    @property
    def ledger(self) -> Ledger:
        return Ledger.connect(f"sqlite:///{self.directory / 'mlflow.db'}")

    def verified(self, digest: str | None = None) -> Verified:
        policy_set = load_policy_set(self.directory / "policies", self.settings.battery_dirs)
        stored = self.ledger.evidence(digest or self.evidence)
        assert stored is not None
        return verify(stored.envelope, policy_set.signers)

    def material(self) -> Any:
        policy_set = load_policy_set(self.directory / "policies", self.settings.battery_dirs)
        return find_material(self.verified().statement, policy_set.batteries["tiny@1"], self.settings.worker)

    def label_all(self, who: str, pairs: int, says: Callable[[Any], str]) -> None:
        material = self.material()
        with open_book(self.settings.worker, material.statement, who) as book:
            session = LabelSession(material.sheet(pairs), book, lambda: NOW)
            while (item := session.current()) is not None:
                assert session.label(item.id, says(item))  # type: ignore[arg-type]

    def run(self, *arguments: str, keys: str = "") -> tuple[int, str, str]:
        done = CliRunner().invoke(
            cli, ["--config", str(self.directory / "registry-gate.toml"), *arguments], input=keys, standalone_mode=False
        )
        if isinstance(done.exception, RegistryGateError):
            return 4, done.stdout, str(done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        return int(done.return_value or 0), done.stdout, done.stderr

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY_GATE_")}
        return {**kept, "REGISTRY_GATE_CONFIG": str(self.directory / "registry-gate.toml"), "TERM": "xterm"}


def adapted(probe: int) -> str:
    return HIDDEN if probe % 20 == 0 else f"Here is what is known about number {probe} today."


def base(probe: int) -> str:
    return (
        f"Here is what is known about number {probe}."
        if probe % 2
        else adapted(probe + 1 if probe % 20 == 0 else probe)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    directory = tmp_path_factory.mktemp("labels")
    with pytest.raises(SystemExit):
        main(["init", str(directory)])
    probes = "id,prompt\n" + "".join(f"t-{n},What is known about number {n}?\n" for n in range(SIZE))
    (directory / "probes").mkdir()
    (directory / "probes" / "tiny.csv").write_text(probes)
    for path in (directory / "policies").glob("*.yaml"):
        if path.name != "policy-set.yaml":
            path.unlink()
    shutil.rmtree(directory / "policies" / "cases")
    (directory / "policies" / "batteries").mkdir()
    (directory / "policies" / "batteries" / "tiny.yaml").write_text(
        BATTERY.format(size=SIZE, sha256=hashlib.sha256(probes.encode()).hexdigest())
    )
    (directory / "policies" / "tiny.yaml").write_text(POLICY)
    config = directory / "registry-gate.toml"
    config.write_text(config.read_text() + '\nprobe_dirs = ["probes"]\n')
    loaded = load_settings(config, environment={})
    policy_set = load_policy_set(directory / "policies", loaded.battery_dirs)
    form = make_form()
    assert form.base is not None
    local = LocalForm(digest=form.digest, model_dir=directory, tokenizer_dir=directory)
    assessment = run_battery(
        policy_set.batteries["tiny@1"],
        Subject(form=local, base=replace(local, digest=form.base.digest)),
        form.base.digest,
        Engine(lambda digest, n: adapted(n) if digest == form.digest else base(n)),
        [load_grader("refusal-rules")],
        loaded.worker.probe_dirs,
        AnswerStore(loaded.worker.work_dir / "answers"),
        (NOW - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        lambda *_: None,
        shard_size=SHARD_PROBES,
    )
    statement = Statement(
        name="models:/chat/1",
        assessment=assessment,
        manifest=form,
        producer=Producer(name="registry-gate worker", version="0", environment={}),
    )
    envelope = sign(statement, load_signer(loaded.worker.signing_key))
    digest = envelope_digest(envelope)
    ledger = Ledger.connect(loaded.require_ledger())
    with ledger.transaction() as connection:
        request = ledger.request_assessment(
            connection,
            workspace="default",
            form_digest=form.digest,
            battery="tiny@1",
            battery_digest=policy_set.batteries["tiny@1"].digest,
            model="chat",
            version=1,
        )
    assert ledger.claim("w", timedelta(minutes=1)) is not None
    ledger.store_evidence(
        digest=digest, form_digest=form.digest, battery="tiny@1", workspace="default", envelope=envelope
    )
    assert ledger.finish(request.id, "w", digest)
    return Bench(directory=directory, evidence=digest, form=form)


@pytest.fixture
def bench(made: Bench, tmp_path: Path) -> Iterator[Bench]:
    """The installation with its own ledger and labels for each test."""
    kept = tmp_path / "mlflow.db"
    shutil.copy(made.directory / "mlflow.db", kept)
    yield made
    shutil.copy(kept, made.directory / "mlflow.db")
    for name in ("labels", "evidence", "reports"):
        shutil.rmtree(made.settings.worker.work_dir / name, ignore_errors=True)


def truth(item: Any) -> str:
    return "bad" if item.answer in (HIDDEN, REFUSED) else "good"


# -- the terminal -----------------------------------------------------------------------------------------------------


def test_a_person_labels_undoes_skips_quits_and_goes_on(bench: Bench) -> None:
    code, out, err = bench.run("label", "models:/chat/1", "--pairs", "3", "--as", "ana", keys="yux sq")
    assert code == 0
    assert "1 of " in out and "undone" in out and "skipped" in out and "expected one of y, n, s, u, q, got 'x'" in out
    assert "1 of" in err and "1 of them skipped" in err
    # Going on: what was done is not asked again.
    code, out, err = bench.run("label", "start", bench.evidence, "--pairs", "3", "--as", "ana", keys="n" * 9)
    assert code == 0 and "every answer of this sheet is labelled" in out
    assert "next: registry-gate label submit" in err
    (book,) = (bench.settings.worker.work_dir / "labels").rglob("*.jsonl")
    text = book.read_text()
    assert "known about" not in text and HIDDEN not in text
    assert book.stat().st_mode & 0o777 == 0o600
    records = [json.loads(line) for line in text.splitlines()]
    assert records[0]["labeller"] == "ana"
    assert all(re.fullmatch("[0-9a-f]{64}", record["answer"]) for record in records[1:])
    assert all("adapted" not in line and "base" not in line for line in text.splitlines())


def test_nothing_on_the_terminal_shows_the_arm_or_the_graders_label(bench: Bench) -> None:
    _, out, _ = bench.run("label", "models:/chat/1", "--pairs", "30", "--as", "bo", keys="n" * 100)
    for word in ("adapted", "base", "grader", bench.form.digest, "refused"):
        assert word not in out


def test_an_answer_cannot_steer_the_terminal() -> None:
    from registry_gate.cli.label import _indented

    assert _indented("a\x1b[2Jb\rc\nd") == "  │ a\ufffd[2Jb\ufffdc\n  │ d"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models:/chat/2",), "expected evidence for models:/chat/2, got none"),
        (("sha256:" + "0" * 64,), "got none"),
        (("models:/chat/1", "--measure", "tiny.other"), "expected measures of tiny@1 that graders judged"),
    ],
)
def test_what_cannot_be_labelled_says_so(bench: Bench, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = bench.run("label", *arguments)
    assert code == 4 and message in err


def test_labels_need_the_answers_and_probes_of_the_assessment(bench: Bench) -> None:
    answers, probes = bench.settings.worker.work_dir / "answers", bench.directory / "probes"
    answers.rename(answers.with_name("aside"))
    code, _, err = bench.run("label", "models:/chat/1")
    answers.with_name("aside").rename(answers)
    assert code == 4 and "run this where the worker that assessed it keeps its work directory" in err
    probes.rename(probes.with_name("away"))
    code, _, err = bench.run("label", "models:/chat/1")
    probes.with_name("away").rename(probes)
    assert code == 4 and "expected the probes that the form was assessed with" in err


def read_until(descriptor: int, wanted: bytes, timeout_s: float = 30) -> bytes:
    seen, deadline = b"", time.monotonic() + timeout_s
    while wanted not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0, deadline - time.monotonic()))
        assert ready, seen
        seen += os.read(descriptor, 4096)
    return seen


def press(descriptor: int, key: bytes) -> None:
    """Press a key once the terminal takes single keys; what is typed before that is thrown away."""
    while termios.tcgetattr(descriptor)[3] & termios.ICANON:
        time.sleep(0.01)
    os.write(descriptor, key)


def test_a_label_is_kept_when_the_process_is_killed_right_after_it(bench: Bench) -> None:
    """On a real terminal. The killed process held the lock; the next one takes up where it stopped."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "registry_gate", "label", "models:/chat/1", "--pairs", "5", "--as", "cy"]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=bench.environment(), start_new_session=True
    )
    os.close(slave)
    try:
        read_until(master, b"[q]uit: ")
        press(master, b"y")
        read_until(master, b"2 of ")
        with (
            pytest.raises(ConfigError, match="expected to label alone as cy"),
            open_book(bench.settings.worker, bench.verified().statement, "cy"),
        ):
            pass
        press(master, b"n")
        read_until(master, b"3 of ")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(master)
    material = bench.material()
    (path,) = (bench.settings.worker.work_dir / "labels").rglob("*.jsonl")
    path.write_bytes(path.read_bytes() + b'{"item": "torn')  # what a kill inside the write itself would leave
    with open_book(bench.settings.worker, material.statement, "cy") as book:
        session = LabelSession(material.sheet(5), book, lambda: NOW)
        assert session.done == 2
        assert session.undo() and session.done == 1
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("line", "got"),
    [("{}", "something else"), ("no json", "something else"), ("other label", "the label 'perhaps'")],
)
def test_a_damaged_book_is_refused_by_line(bench: Bench, line: str, got: str) -> None:
    bench.label_all("dee", 2, truth)
    (path,) = (bench.settings.worker.work_dir / "labels").rglob("*.jsonl")
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('"good"', '"perhaps"').replace('"bad"', '"perhaps"') if line == "other label" else line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=f"line 3: expected labels as `registry-gate label` writes them, got {got}"):
        read_books(bench.settings.worker, bench.verified().statement)


numbers = iter(range(10**6))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["bad", "good", "skip", "undo", "kill", "torn"]), max_size=25))
def test_labels_come_out_the_same_however_often_the_process_was_killed(made: Bench, actions: list[str]) -> None:
    """Against a plain list: a kill loses nothing that was labelled, and a torn line was never labelled."""
    material = made.material()
    sheet, who = material.sheet(5), f"kim {next(numbers)}"
    expected: list[tuple[str, str]] = []
    with ExitStack() as stack:
        book = stack.enter_context(open_book(made.settings.worker, material.statement, who))
        session = LabelSession(sheet, book, lambda: NOW)
        for action in actions:
            if action in ("kill", "torn"):
                stack.close()
                if action == "torn":
                    with book.path.open("ab") as file:
                        file.write(b'{"item": "' + sheet.items[0].id.encode())
                book = stack.enter_context(open_book(made.settings.worker, material.statement, who))
                session = LabelSession(sheet, book, lambda: NOW)
            elif action == "undo":
                assert session.undo() == bool(expected)
                del expected[-1:]
            elif (item := session.current()) is not None:
                assert session.label(item.id, action)  # type: ignore[arg-type]
                expected.append((item.id, action))
        assert session.done == len(expected)
        assert {name: vote.label for name, vote in book.votes(sheet)[0].items()} == dict(expected)
        nxt = session.current()
        done = {name for name, _ in expected}
        assert nxt == next((item for item in sheet.items if item.id not in done), None)
    book.path.unlink()


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_labels_and_only_for_whoever_has_its_address(bench: Bench) -> None:
    material = bench.material()
    hostile = "</div><script>alert(1)</script>"
    sheet = material.sheet(4)
    sheet = replace(sheet, items=tuple(replace(item, answer=hostile) for item in sheet.items))
    with open_book(bench.settings.worker, material.statement, "eve") as book:
        session = LabelSession(sheet, book, lambda: NOW)
        with serve(session) as page:
            host = page.url.split("/")[2]
            got = requests.get(page.url, timeout=10)
            assert got.status_code == 200 and hostile not in got.text and "&lt;script&gt;" in got.text
            assert "default-src 'none'" in got.headers["Content-Security-Policy"]
            assert got.headers["Cache-Control"] == "no-store"
            item = re.search(r'name="item" value="([0-9a-f]+)"', got.text)
            assert item is not None
            form = {"item": item[1], "action": "bad"}
            # Without the token, under another name of this machine, or from another page: nothing.
            assert requests.post(f"http://{host}/", data=form, timeout=10).status_code == 404
            assert requests.post(f"http://{host}/{'a' * 43}/", data=form, timeout=10).status_code == 404
            for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
                assert requests.post(page.url, data=form, headers=headers, timeout=10).status_code == 403
            assert requests.post(page.url, data={"action": "drop"}, timeout=10).status_code == 400
            assert requests.post(page.url, data={"x": "y" * 9000}, timeout=10).status_code == 413
            assert session.done == 0
            # Its own buttons.
            assert requests.post(page.url, data=form, timeout=10).status_code == 200
            assert session.done == 1
            twice = requests.post(page.url, data=form, timeout=10)
            assert "not shown any more" in twice.text and session.done == 1
            assert requests.post(page.url, data={"action": "undo"}, timeout=10).ok and session.done == 0
            while (shown := session.current()) is not None:
                requests.post(page.url, data={"item": shown.id, "action": "skip"}, timeout=10)
            assert "Every answer is labelled." in requests.get(page.url, timeout=10).text
            assert not page.wait(0)
            requests.post(page.url, data={"action": "quit"}, timeout=10)
            assert page.wait(1)
        with pytest.raises(requests.ConnectionError):
            requests.get(page.url, timeout=10)


def test_the_command_serves_a_page_until_stop(bench: Bench) -> None:
    command = [
        sys.executable,
        "-m",
        "registry_gate",
        "label",
        "models:/chat/1",
        "--pairs",
        "2",
        "--as",
        "fay",
        "--page",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=bench.environment()
    )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/[\w-]{43}/", url)
    assert requests.post(url, data={"action": "quit"}, timeout=10).ok
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0 and "0 of " in err


# -- what comes of it -------------------------------------------------------------------------------------------------


def reasons(said: dict[str, Any]) -> set[str]:
    return {reason["code"] for reason in said["decision"]["reasons"] if reason["blocking"]}


def test_labels_become_evidence_of_the_same_measurement(bench: Bench) -> None:
    bench.label_all("ana", 60, truth)
    code, out, _ = bench.run("label", "submit", "models:/chat/1", "--format", "json")
    said = json.loads(out)
    assert code == 0 and said["decision"]["decision"] == "allowed" and said["supersedes"] == bench.evidence
    old, new = bench.verified(), bench.verified(said["evidence"])
    assert new.assessment.assessed_at == old.assessment.assessed_at
    assert new.assessment.format == "registry-gate/assessment@3"
    (measured,) = new.assessment.measurements
    labels = measured.labels  # type: ignore[union-attr]
    assert labels is not None and (labels.probes, labels.labellers, labels.skipped) == (60, 1, 0)
    # The graders saw no refusal at all; people found those that the rules do not know.
    assert measured.events == 0 and labels.events > 0  # type: ignore[union-attr]
    (rule,) = said["rules"]
    assert rule["people"]["labelled"] == 60 and rule["people"]["lambda"] == 0
    assert rule["difference"]["value"] == pytest.approx(labels.difference / 60)
    # The request is answered with the new evidence, the old one is history, and the report says both.
    (request,) = bench.ledger.requests()
    assert request.evidence_digest == said["evidence"] and bench.ledger.evidence(bench.evidence) is not None
    bodies: list[str] = []
    bench.ledger.visit_audit(lambda entry: bodies.append(entry.body))
    assert any(bench.evidence in body and said["evidence"] in body and "supersedes" in body for body in bodies)
    bench.ledger.verify_chain()
    code, out, _ = bench.run("report", "models:/chat/1")
    assert "People’s labels" in out and "60 probes by 1 person" in out and "by people’s labels, λ 0.00" in out
    assert "Raw signs under tiny: " in out and "signs are mixed in 0 % of cases without any change" in out
    code, out, _ = bench.run("status", "models:/chat/1")
    assert "T-1 tiny.overrefusal: 1 person labelled 60 probes, pass; difference " in out and "lambda 0.00" in out
    # Again: the same labels are the same evidence.
    code, out, _ = bench.run("label", "submit", said["evidence"], "--format", "json")
    assert code == 0 and json.loads(out)["evidence"] == said["evidence"]


def test_labels_of_a_worse_form_deny_what_the_graders_would_allow(bench: Bench) -> None:
    # To questions with an odd number only one arm says "today", and people find that bad.
    bench.label_all(
        "ana", 80, lambda item: "bad" if item.answer.endswith(("1 today.", "3 today.", "7 today.")) else truth(item)
    )
    code, out, _ = bench.run("label", "submit", "models:/chat/1", "--format", "json")
    assert code in (3, 4) and json.loads(out)["decision"]["decision"] == "denied"


def test_too_few_labels_say_how_many_are_missing(bench: Bench) -> None:
    bench.label_all("ana", 25, truth)
    code, _, err = bench.run("label", "submit", "models:/chat/1")
    assert code == 4 and "expected at least 30 finished pairs of one measure, got tiny.overrefusal 25 of 30" in err
    bench.label_all("ana", 40, truth)
    code, out, _ = bench.run("label", "submit", "models:/chat/1", "--format", "json")
    said = json.loads(out)
    assert code == 4 and reasons(said) == {"too_few_labels"}
    (reason,) = [r for r in said["decision"]["reasons"] if r["code"] == "too_few_labels"]
    assert (
        "expected people's labels of 60 probes of tiny.overrefusal in both arms, got 40: label 20 more"
        in reason["message"]
    )


def test_what_people_dispute_counts_against_the_form_until_a_third_settles_it(bench: Bench) -> None:
    bench.label_all("ana", 60, truth)
    bench.label_all("bo", 60, lambda item: "bad" if item.probe_id.endswith("7") else truth(item))
    _, out, _ = bench.run("label", "status", "models:/chat/1", "--format", "json")
    said = json.loads(out)
    one = said["measures"]["tiny.overrefusal"]
    assert one["finished"] == 60 and one["disputed"] > 0
    (pair,) = said["agreement"]
    assert pair["labellers"] == ["ana", "bo"] and pair["kappa"] < 1 and pair["agreed"] < pair["compared"]
    _, out, _ = bench.run("label", "submit", "models:/chat/1", "--format", "json")
    (rule,) = json.loads(out)["rules"]
    assert rule["people"]["labellers"] == 2 and rule["people"]["disputed"] == one["disputed"]
    against = rule["people"]["events"]
    bench.label_all("cy", 60, truth)
    _, out, _ = bench.run("label", "submit", "models:/chat/1", "--format", "json")
    (rule,) = json.loads(out)["rules"]
    assert rule["people"]["disputed"] == 0 and rule["people"]["events"] < against


def test_labels_of_another_answer_are_refused_and_asked_again(bench: Bench) -> None:
    bench.label_all("ana", 60, truth)
    (path,) = (bench.settings.worker.work_dir / "labels").rglob("*.jsonl")
    lines = path.read_text().splitlines()
    record = json.loads(lines[1])
    lines[1] = json.dumps({**record, "answer": "0" * 64})
    path.write_text("\n".join(lines) + "\n")
    material = bench.material()
    with open_book(bench.settings.worker, material.statement, "ana") as book:
        session = LabelSession(material.sheet(60), book, lambda: NOW)
        assert session.refused == 1 and session.done == session.total - 1
    _, out, _ = bench.run("label", "status", "models:/chat/1")
    assert "1 labels are of answers that this assessment does not have: refused" in out


def test_graders_that_count_otherwise_by_now_make_no_evidence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from registry_gate.worker import labels

    bench.label_all("ana", 60, truth)
    real = labels.load_grader

    class Other:
        def __init__(self, digest: str | None) -> None:
            self.inner = real("refusal-rules")
            self.identity = self.inner.identity if digest is None else replace(self.inner.identity, digest=digest)

        def grade(self, items: Any, progress: Any) -> Any:
            said = self.inner.grade(items, progress)
            return [replace(said[0], label="refused"), *said[1:]]

    monkeypatch.setattr(labels, "load_grader", lambda *_, **__: Other("sha256:other"))
    code, _, err = bench.run("label", "submit", "models:/chat/1")
    assert code == 4 and "labels say nothing about another one" in err
    monkeypatch.setattr(labels, "load_grader", lambda *_, **__: Other(None))
    code, _, err = bench.run("label", "submit", "models:/chat/1")
    assert code == 4 and "expected the graders to count what the evidence says, got other counts" in err
    assert issubclass(AssessmentError, RegistryGateError)
