"""Let people label answers of one assessment, keep what they say, and make evidence of it.

A book holds the labels of one person for one form and battery: ids, digests and labels, never a text. Each label is on
the disk before the next answer is shown; a second process that writes the same book is refused. Evidence that labels
make is the old assessment, counted with what people said: nothing is measured again, and it grows no younger.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

from evaluators.answers import AnswerStore, stored_answers
from evaluators.engines.interface import Answer
from evaluators.graders.catalogue import load_grader
from evaluators.graders.interface import Grader
from evaluators.grading import Arm, grade_answers
from evaluators.instruments.probe import probe_set_digest
from evaluators.labelling import (
    Asked,
    Item,
    Sheet,
    Vote,
    Word,
    agreements,
    finished,
    make_sheet,
    needs_people,
    people_labels,
    settled,
)
from evaluators.measuring import Run, bad_answers, measure
from evaluators.runner import asked_probes, load_all
from evaluators.stopping import asked_in_looks
from registry_gate import __version__
from registry_gate.artifact import SYSTEM_PROMPT_KEY
from registry_gate.assessment import LabellerAgreement, Measured
from registry_gate.battery import Battery
from registry_gate.config import WorkerSettings
from registry_gate.errors import AssessmentError, ConfigError
from registry_gate.evidence.statement import Producer, Statement
from registry_gate.statistics.agreement import Confusion
from registry_gate.statistics.correction import FEWEST_LABELS
from registry_gate.worker.assess import SHARD_PROBES, environment

FORMAT = "registry-gate/labels@1"

UNDONE = "undone"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Material:
    """The answers that people label, as the assessment obtained them.

    Args:
        statement: The evidence.
        battery: Its battery.
        asked: Measures whose graders may be wrong.
    """

    statement: Statement
    battery: Battery
    asked: tuple[Asked, ...]

    @property
    def most(self) -> int:
        """Probes of the largest measure: a sheet of so many holds all."""
        return max((len(one.probes) for one in self.asked), default=0)

    def sheet(self, pairs: int, measures: Sequence[str] = ()) -> Sheet:
        """The sheet for so many probes of each measure.

        Args:
            pairs: Probes of each measure; all of them where there are fewer.
            measures: Only these; none for all.

        Raises:
            AssessmentError: A measure has nothing that people could label.
        """
        known = [one.instrument.measure for one in self.asked]
        unknown = sorted(set(measures) - set(known))
        if unknown or not known:
            raise AssessmentError(
                f"expected measures of {self.battery.id} that graders judged ({', '.join(known) or 'it has none'}), "
                f"got {', '.join(unknown) or 'none'}",
                code="nothing_to_label",
            )
        chosen = [one for one in self.asked if not measures or one.instrument.measure in measures]
        return make_sheet(self.statement.subject, self.battery.digest, chosen, pairs)


def find_material(statement: Statement, battery: Battery, settings: WorkerSettings) -> Material:
    """Find the answers behind some evidence where this worker keeps them.

    Raises:
        AssessmentError: Battery, probes or answers are not those of the assessment any more.
    """
    assessment = statement.assessment
    if battery.digest != assessment.battery_digest:
        raise AssessmentError(
            f"expected the battery {battery.id} as it was assessed with ({assessment.battery_digest}), got "
            f"{battery.digest}: assess the version again",
            code="battery_changed",
        )
    loaded, broken = load_all(battery, probe_dirs=settings.probe_dirs)
    digests = {name: probe_set_digest(probes) for name, probes in loaded.items()}
    if digests != dict(assessment.probe_sets):
        causes = "; ".join(one.cause for one in broken) or "other probes under the same names"
        raise AssessmentError(
            f"expected the probes that the form was assessed with, got: {causes}. Put the probe files back where the "
            "worker looks for them",
            code="probes_changed",
        )
    generation = dict(assessment.generation)
    engine = str(generation.pop("engine", ""))
    metadata = statement.manifest.settings.get("metadata") or {}
    measured = {one.measure for one in assessment.measurements if isinstance(one, Measured)}
    in_full = asked_probes(loaded)["answers"]
    in_looks = [
        asked_in_looks(name, probes, shard_size=SHARD_PROBES)
        for name, probes in loaded.items()
        if name in measured and not probes[0].choices
    ]
    arms: dict[str, dict[str, Answer]] = {}
    for arm, form in (("adapted", assessment.form_digest), ("base", assessment.base_digest)):
        if form is not None:
            stored = partial(
                stored_answers,
                AnswerStore(settings.work_dir / "answers"),
                form=form,
                system_prompt=metadata.get(SYSTEM_PROMPT_KEY),
                settings=generation,
                engine=engine,
            )
            try:
                shards = [in_full[start : start + SHARD_PROBES] for start in range(0, len(in_full), SHARD_PROBES)]
                found = stored([shards])
            except AssessmentError:  # the policies let it stop early, so it was put in looks
                found = [answer for ways in in_looks for answer in stored(ways)]
            arms[arm] = {answer.probe_id: answer for answer in found}
    asked = []
    for instrument in battery.spec.instruments:
        if instrument.measure not in measured or not needs_people(instrument):
            continue
        own = loaded[instrument.measure]
        if any(probe.choices for probe in own):
            continue
        by_arm = {
            arm: {p.id: replace(by_id[f"{instrument.measure}/{p.id}"], probe_id=p.id) for p in own}
            for arm, by_id in arms.items()
        }
        asked.append(Asked(instrument=instrument, probes=own, adapted=by_arm["adapted"], base=by_arm.get("base")))
    return Material(statement=statement, battery=battery, asked=tuple(asked))


# -- books ------------------------------------------------------------------------------------------------------------


class LabelBook:
    """Labels of one person, read and appended to. Use `open_book`.

    Args:
        path: The file.
        labeller: Whose it is.
        records: What it holds, oldest first.
        descriptor: Open for appending, locked; None for one that is only read.
    """

    def __init__(self, path: Path, labeller: str, records: list[dict[str, str]], descriptor: int | None) -> None:
        self.path = path
        self.labeller = labeller
        self._records = records
        self._descriptor = descriptor

    def append(self, item: Item, label: str, at: datetime) -> None:
        """Write a label and wait until it is on the disk.

        Raises:
            ConfigError: It cannot be written; nothing before it is lost.
        """
        record = {
            "item": item.id,
            "measure": item.measure,
            "probe": item.probe_id,
            "answer": item.answer_digest,
            "label": label,
            "at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if self._descriptor is None:
            raise ValueError("expected a book that is open for writing")
        _write_line(self._descriptor, self.path, record)
        self._records.append(record)

    def votes(self, sheet: Sheet) -> tuple[dict[str, Vote], int]:
        """The last label of each answer of the assessment, by item, and the number of labels of other answers.

        A label counts only when the answer that it is of is one of this assessment's to that probe.
        """
        found: dict[str, Vote] = {}
        refused: set[str] = set()
        for record in self._records:
            if record["answer"] not in sheet.everything.get((record["measure"], record["probe"]), frozenset()):
                if (record["measure"], record["probe"]) in sheet.everything:
                    refused.add(record["item"])
                continue
            found.pop(record["item"], None)
            label: Any = record["label"]
            if label != UNDONE:
                found[record["item"]] = Vote(labeller=self.labeller, label=label, at=record["at"])
        return found, len(refused)


def _write_line(descriptor: int, path: Path, record: Mapping[str, str]) -> None:
    data = (json.dumps(record, sort_keys=True) + "\n").encode()
    end = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        written = 0
        while written < len(data):
            written += os.write(descriptor, data[written:])
        os.fsync(descriptor)
    except OSError as err:
        os.ftruncate(descriptor, end)
        raise ConfigError(
            f"expected to write a label to {path}, got: {err.strerror}. Make room and go on: what was labelled before "
            "is kept",
            code="labels_unwritable",
        ) from err


def book_dir(settings: WorkerSettings, statement: Statement) -> Path:
    """Where the books of one form and battery lie."""
    named = f"{statement.subject}|{statement.assessment.battery_digest}"
    return settings.work_dir / "labels" / hashlib.sha256(named.encode()).hexdigest()[:16]


@contextmanager
def open_book(settings: WorkerSettings, statement: Statement, labeller: str) -> Iterator[LabelBook]:
    """Open a person's book for writing; made when there is none, and locked until it is closed.

    Raises:
        ConfigError: Another process writes it, it is damaged, or it cannot be written.
    """
    directory = book_dir(settings, statement)
    path = directory / f"{hashlib.sha256(labeller.encode()).hexdigest()[:16]}.jsonl"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as err:
        raise ConfigError(
            f"expected to keep labels in {directory}, got: {err.strerror}", code="labels_unwritable"
        ) from err
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise ConfigError(
                f"expected to label alone as {labeller}, got another process that does so now: end it, or give another "
                "name with --as",
                code="labels_locked",
            ) from err
        data = path.read_bytes()
        # A process that was killed while it wrote leaves a line without its end: that label was never confirmed.
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            os.ftruncate(descriptor, len(whole))
        if not whole:
            header = {
                "format": FORMAT,
                "form": statement.subject,
                "battery": statement.assessment.battery_digest,
                "labeller": labeller,
            }
            _write_line(descriptor, path, header)
            whole = path.read_bytes()
        name, records = _read(path, whole, statement)
        if name != labeller:
            raise ConfigError(f"expected labels of {labeller} in {path}, got those of {name}", code="labels_damaged")
        yield LabelBook(path, labeller, records, descriptor)
    finally:
        os.close(descriptor)


def read_books(settings: WorkerSettings, statement: Statement) -> list[LabelBook]:
    """Everyone's books of a form and battery, by name.

    Raises:
        ConfigError: One of them is damaged.
    """
    books = []
    for path in sorted(book_dir(settings, statement).glob("*.jsonl")):
        data = path.read_bytes()
        if data[: data.rfind(b"\n") + 1]:
            name, records = _read(path, data[: data.rfind(b"\n") + 1], statement)
            books.append(LabelBook(path, name, records, None))
    return sorted(books, key=lambda book: book.labeller)


def _read(path: Path, data: bytes, statement: Statement) -> tuple[str, list[dict[str, str]]]:
    records: list[dict[str, str]] = []
    for number, line in enumerate(data.splitlines(), 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        keys = (
            {"format", "form", "battery", "labeller"}
            if number == 1
            else {"item", "measure", "probe", "answer", "label", "at"}
        )
        if (
            not isinstance(record, dict)
            or record.keys() != keys
            or not all(isinstance(v, str) for v in record.values())
        ):
            raise _damaged(path, number, "something else")
        if number > 1 and record["label"] not in (*get_args(Word), UNDONE):
            raise _damaged(path, number, f"the label {record['label']!r}")
        records.append(record)
    header, *rest = records
    expected = (FORMAT, statement.subject, statement.assessment.battery_digest)
    if (header["format"], header["form"], header["battery"]) != expected:
        raise _damaged(path, 1, "labels of another form or battery")
    return header["labeller"], rest


def _damaged(path: Path, line: int, got: str) -> ConfigError:
    return ConfigError(
        f"{path}, line {line}: expected labels as `registry-gate label` writes them, got {got}: put the file aside and "
        "label again",
        code="labels_damaged",
    )


class LabelSession:
    """One person at work on one sheet. Every answer is on the disk before the next one is shown.

    Args:
        sheet: What is asked.
        book: Where it goes.
        clock: The time of each label.
    """

    def __init__(self, sheet: Sheet, book: LabelBook, clock: Callable[[], datetime]) -> None:
        self.sheet = sheet
        self._book = book
        self._clock = clock
        self._votes, self.refused = book.votes(sheet)
        self._items = {item.id: item for item in sheet.items}

    @property
    def labeller(self) -> str:
        """Who labels."""
        return self._book.labeller

    @property
    def total(self) -> int:
        """Answers on the sheet."""
        return len(self._items)

    @property
    def done(self) -> int:
        """Answers that this person went through, skipped ones too."""
        return sum(name in self._votes for name in self._items)

    @property
    def skipped(self) -> int:
        """Answers that this person could not tell."""
        return sum(vote.label == "skip" for name, vote in self._votes.items() if name in self._items)

    def current(self) -> Item | None:
        """The answer to label next; None when nothing is left."""
        return next((item for item in self.sheet.items if item.id not in self._votes), None)

    def label(self, item_id: str, word: Word) -> bool:
        """Label the answer that is shown. False, and nothing written, when another one is shown by now."""
        item = self.current()
        if item is None or item.id != item_id:
            return False
        at = self._clock()
        self._book.append(item, word, at)
        self._votes[item.id] = Vote(labeller=self.labeller, label=word, at=at.strftime("%Y-%m-%dT%H:%M:%SZ"))
        return True

    def undo(self) -> bool:
        """Take back the last label of this sheet; its answer is asked again. False when there is none."""
        last = next((name for name in reversed(self._votes) if name in self._items), None)
        if last is None:
            return False
        self._book.append(self._items[last], UNDONE, self._clock())
        del self._votes[last]
        return True


# -- evidence ---------------------------------------------------------------------------------------------------------


def votes_of(books: Sequence[LabelBook], sheet: Sheet) -> tuple[dict[str, list[Vote]], int]:
    """Everyone's votes by item, and the number of labels that were refused because their answer is not there."""
    votes: dict[str, list[Vote]] = {}
    refused = 0
    for book in books:
        found, strangers = book.votes(sheet)
        refused += strangers
        for name, vote in found.items():
            votes.setdefault(name, []).append(vote)
    return votes, refused


def progress_of(material: Material, books: Sequence[LabelBook], pairs: int) -> dict[str, Any]:
    """How far people are, as JSON values: per measure, per two labellers, and labels that were refused."""
    sheet = material.sheet(pairs)
    votes, refused = votes_of(books, material.sheet(material.most))
    measures = {}
    for name, sample in sheet.samples.items():
        said = [votes.get(item.id, []) for item in sheet.items if item.measure == name]
        unsettled = [one for one in said if one and settled(one) is None]
        measures[name] = {
            "wanted": len(sample),
            "finished": len(finished(sample, votes)),
            "answers": len(said),
            "done": sum(bool(one) for one in said),
            "skipped": sum(all(vote.label == "skip" for vote in one) for one in unsettled),
            "disputed": sum(any(vote.label != "skip" for vote in one) for one in unsettled),
        }
    return {
        "labellers": [book.labeller for book in books],
        "measures": measures,
        "agreement": [
            {
                "labellers": list(pair),
                "compared": one.both_bad + one.only_first + one.only_second + one.both_good,
                "agreed": one.both_bad + one.both_good,
                "kappa": kappa(one),
            }
            for pair, one in agreements(votes).items()
        ],
        "refused": refused,
    }


def kappa(agreement: LabellerAgreement) -> float | None:
    """Cohen's kappa of two labellers; None when neither ever used a second label."""
    return Confusion(
        true_positive=agreement.both_bad,
        false_positive=agreement.only_first,
        false_negative=agreement.only_second,
        true_negative=agreement.both_good,
    ).kappa


def labelled_statement(
    material: Material, votes: Mapping[str, Sequence[Vote]], settings: WorkerSettings, progress: Progress
) -> Statement:
    """The statement with people's labels: the same measurement, graded once more to see what the graders said of each
    answer, and refused when they say anything else than then.

    Raises:
        AssessmentError: Nobody labelled enough, a grader is not there or is another, or the counts come out different.
    """
    assessment = material.statement.assessment
    everything = material.sheet(material.most).samples
    recorded = {grader.name: grader.digest for grader in assessment.graders}
    graders: dict[str, Grader] = {}
    labels = {}
    short = []
    for one in material.asked:
        name = one.instrument.measure
        done = len(finished(everything[name], votes))
        wanted = min(FEWEST_LABELS, len(one.probes))
        if done < wanted:
            if done:
                short.append(f"{name} {done} of {wanted}")
            continue
        for grader in one.instrument.graders:
            if grader not in graders:
                graders[grader] = _same_grader(grader, recorded, settings)
        run = _graded(one, [graders[grader] for grader in one.instrument.graders], progress)
        item = next(m for m in assessment.measurements if isinstance(m, Measured) and m.measure == name)
        again = measure(
            run.instrument,
            run.probes,
            run.adapted.answers,
            None if run.base is None else run.base.answers,
            run.adapted.grades,
            None if run.base is None else run.base.grades,
        )
        if not isinstance(again, Measured) or (again.events, again.table) != (item.events, item.table):
            raise AssessmentError(
                f"{name}: expected the graders to count what the evidence says, got other counts: something that "
                "grades changed; assess the version again",
                code="grades_changed",
            )
        graded, graded_base = bad_answers(run)
        labels[name] = people_labels(
            everything[name], votes, graded, graded_base, clustered=item.clusters < item.probes
        )
    if not labels:
        raise AssessmentError(
            f"expected at least {FEWEST_LABELS} finished pairs of one measure, got "
            f"{', '.join(short) or 'none'}: go on with `registry-gate label`",
            code="too_few_labels",
        )
    counted = tuple(
        replace(one, labels=labels[one.measure]) if isinstance(one, Measured) and one.measure in labels else one
        for one in assessment.measurements
    )
    return replace(
        material.statement,
        assessment=replace(assessment, measurements=counted),
        producer=Producer(name="registry-gate label", version=__version__, environment=environment()),
    )


def _same_grader(name: str, recorded: Mapping[str, str], settings: WorkerSettings) -> Grader:
    grader = load_grader(name, directories=settings.grader_dirs, threads=settings.threads, provider=settings.device)
    if grader.identity.digest != recorded.get(name):
        raise AssessmentError(
            f"expected the grader {name} that voted ({recorded.get(name)}), got {grader.identity.digest}: labels say "
            "nothing about another one; assess the version again",
            code="grader_changed",
        )
    return grader


def _graded(one: Asked, graders: Sequence[Grader], progress: Progress) -> Run:
    def arm(name: str, by_id: Mapping[str, Answer]) -> Arm:
        answers = tuple(by_id[probe.id] for probe in one.probes)
        label = f"grades of {one.instrument.measure}, {name}"
        return Arm(answers=answers, grades=grade_answers(graders, one.probes, answers, progress, label=label))

    return Run(
        instrument=one.instrument,
        probes=one.probes,
        adapted=arm("adapted", one.adapted),
        base=None if one.base is None else arm("base", one.base),
    )
