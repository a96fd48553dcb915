"""Obtain answers from an engine, and keep them: a killed run resumes, and a base's answers serve many versions."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evaluators.engines.interface import Answer, ChoiceEngine, Engine, GenerationSettings, LocalForm, chosen
from evaluators.instruments.probe import Probe
from registry_gate.battery import GenerationSpec
from registry_gate.errors import AssessmentError

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much of it is done, how much there is)."""

SHARD_PROBES = 256
"""Probes of one call of the engine, and what a killed run loses at most. Not smaller, because an engine that answers in
a child process loads the form once for every call."""

_ENGINE_LIBRARIES = ("torch", "transformers", "peft", "tokenizers")


class AnswerStore:
    """Answers that were obtained before, so that a killed run resumes and the answers of a base serve many versions.

    A file's name is a digest over everything that may change its answers: the form, what is put before every probe, the
    probes in order, the settings and the engine. A checksum inside finds files that are half-written or were altered by
    accident; they are made again. It is no signature: the directory must be writable by the worker alone.

    Args:
        directory: Made when it is missing, readable by its owner only, as answers may be harmful text.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, key: Mapping[str, Any], probes: Sequence[Probe]) -> list[Answer] | None:
        """The stored answers in the order of the probes, or None when there are none that can be trusted."""
        try:
            stored = json.loads(self._path(key).read_bytes())
            body = {"key": stored["key"], "answers": stored["answers"]}
            if stored["sha256"] != _digest(body) or stored["key"] != json.loads(json.dumps(key)):
                return None
            answers = [Answer(**fields) for fields in stored["answers"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return answers if [answer.probe_id for answer in answers] == [probe.id for probe in probes] else None

    def put(self, key: Mapping[str, Any], answers: Sequence[Answer]) -> None:
        """Store answers under their key; after a crash there is either the whole file or none.

        Raises:
            AssessmentError: The directory cannot be written, or the disk is full.
        """
        path = self._path(key)
        body = {"key": key, "answers": [answer.to_dict() for answer in answers]}
        temporary: str | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # mkstemp makes the file readable by its owner alone.
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({**body, "sha256": _digest(body)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as err:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            raise AssessmentError(
                f"expected to store answers in {path.parent}, got: {err.strerror}. Free space or point the worker at "
                "another directory; what was stored before is kept.",
                code="answers_unwritable",
            ) from err

    def _path(self, key: Mapping[str, Any]) -> Path:
        # One folder for each form, so that an operator can delete what is no longer served.
        return self.directory / _digest(key["form"])[:16] / f"{_digest(key)}.json"


def engine_identity(engine: Engine) -> str:
    """What evidence and the answer store call an engine: its own `identity` text where it has one, else its class and
    device with the versions of the libraries that generate."""
    declared = getattr(engine, "identity", None)
    if isinstance(declared, str) and declared:
        return declared
    words = [f"{type(engine).__module__}.{type(engine).__qualname__}"]
    if (device := getattr(engine, "device", None)) is not None:
        words.append(str(device))
    for library in _ENGINE_LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            words.append(f"{library}={version(library)}")
    return " ".join(words)


def settings_of(spec: GenerationSpec) -> GenerationSettings:
    """The settings of a battery: greedy, because gates must be able to repeat an answer."""
    return GenerationSettings(
        max_new_tokens=spec.max_new_tokens, precision=spec.precision, batch_size=spec.batch_size, seed=spec.seed
    )


def collect_answers(
    engine: Engine,
    form: LocalForm,
    probes: Sequence[Probe],
    settings: GenerationSettings,
    store: AnswerStore,
    progress: Progress,
    *,
    label: str = "answers",
    shard_size: int = SHARD_PROBES,
) -> list[Answer]:
    """One answer for each probe, in order, from the store where it has them.

    Args:
        engine: Obtains what the store does not have.
        form: Who is asked.
        probes: What is asked; their ids must differ.
        settings: How.
        store: Where finished shards are kept.
        progress: Told after every batch that the engine reports, and after every shard.
        label: What progress calls this.
        shard_size: Probes of one call of the engine.

    Raises:
        AssessmentError: The engine failed, did not answer every probe exactly once, or the store cannot be written.
            Shards that were finished before stay stored.
    """
    if len({probe.id for probe in probes}) != len(probes):
        raise AssessmentError("expected each probe id once, got some twice", code="duplicate_probe")
    answers: list[Answer] = []
    for start in range(0, len(probes), shard_size):
        shard = list(probes[start : start + shard_size])
        key = _asked_key(engine, form, shard, settings)
        found = store.get(key, shard)
        if found is None:
            found = _asked(engine, form, shard, settings, part_of(progress, label, start, len(probes)))
            store.put(key, found)
        answers += found
        progress(label, len(answers), len(probes))
    return answers


def collect_pieces(
    engine: Engine,
    form: LocalForm,
    pieces: Sequence[Sequence[Probe]],
    settings: GenerationSettings,
    store: AnswerStore,
    progress: Progress,
    *,
    label: str = "answers",
    shard_size: int = SHARD_PROBES,
) -> list[Answer]:
    """One answer for each probe of some pieces, in order. Each piece is kept by itself, however many are asked at once.

    So the answers of a base are found again whatever other pieces were asked beside them. Arguments and errors are
    those of `collect_answers`; `pieces` are what is asked, and one call of the engine gets as many of them as fit into
    `shard_size`.
    """
    total = sum(len(piece) for piece in pieces)
    found = {number: store.get(_asked_key(engine, form, piece, settings), piece) for number, piece in enumerate(pieces)}
    done = sum(len(answers) for answers in found.values() if answers is not None)
    progress(label, done, total)
    missing = [number for number, answers in found.items() if answers is None]
    while missing:
        call = [missing.pop(0)]
        while missing and sum(len(pieces[number]) for number in [*call, missing[0]]) <= shard_size:
            call.append(missing.pop(0))
        asked = [probe for number in call for probe in pieces[number]]
        answers = _asked(engine, form, asked, settings, part_of(progress, label, done, total))
        for number in call:
            size = len(pieces[number])
            found[number], answers = answers[:size], answers[size:]
            store.put(_asked_key(engine, form, pieces[number], settings), found[number] or [])
        done += len(asked)
        progress(label, done, total)
    return [answer for number in range(len(pieces)) for answer in found[number] or []]


def stored_answers(
    store: AnswerStore,
    ways: Sequence[Sequence[Sequence[Probe]]],
    *,
    form: str,
    system_prompt: str | None,
    settings: Mapping[str, Any],
    engine: str,
) -> list[Answer]:
    """The answers that an assessment obtained, from the store alone: nobody is asked anything.

    Args:
        store: Where they are kept.
        ways: The pieces that may have been asked, in order; the first way that the store has in full counts.
        form: Digest of who was asked.
        system_prompt: What was put before every probe.
        settings: How, as evidence states it.
        engine: By what, as evidence states it.

    Raises:
        AssessmentError: The store does not have all of them.
    """
    for pieces in ways:
        found = [store.get(_key(form, system_prompt, None, piece, settings, engine), piece) for piece in pieces]
        complete = [answers for answers in found if answers is not None]
        if len(complete) == len(pieces):
            return [answer for answers in complete for answer in answers]
    raise AssessmentError(
        f"expected the answers of the form {form} in {store.directory}, got none or not all of them: run this where "
        "the worker that assessed it keeps its work directory, or assess the version again",
        code="answers_missing",
    )


def _asked_key(engine: Engine, form: LocalForm, shard: Sequence[Probe], settings: GenerationSettings) -> dict[str, Any]:
    identity = engine_identity(engine)
    return _key(form.digest, form.system_prompt, form.chat_template, shard, settings.identity(), identity)


def _key(
    form: str,
    system_prompt: str | None,
    chat_template: str | None,
    shard: Sequence[Probe],
    settings: Mapping[str, Any],
    engine: str,
) -> dict[str, Any]:
    # A form's digest covers its system prompt, but a base is asked under the form's: so that is said again.
    return {
        "format": "registry-gate/answers@1",
        "form": form,
        "system_prompt": system_prompt,
        "chat_template": chat_template,
        "probes": _digest([[probe.id, probe.text, *probe.choices] for probe in shard]),
        "settings": dict(settings),
        "engine": engine,
    }


def part_of(progress: Progress, label: str, start: int, total: int) -> Callable[[int, int], None]:
    """Progress of one call as progress of everything that has this label."""

    def report(done: int, _: int) -> None:
        progress(label, start + done, total)

    return report


def _asked(
    engine: Engine,
    form: LocalForm,
    shard: Sequence[Probe],
    settings: GenerationSettings,
    progress: Callable[[int, int], None],
) -> list[Answer]:
    if any(probe.choices for probe in shard):
        answers = _chosen(engine, form, shard, settings, progress)
    else:
        answers = engine.answer(form, shard, settings, progress)
    got = Counter(answer.probe_id for answer in answers)
    if got != Counter(probe.id for probe in shard):
        missing = sum(probe.id not in got for probe in shard)
        repeated = sum(count > 1 for count in got.values())
        unknown = len(got.keys() - {probe.id for probe in shard})
        raise AssessmentError(
            f"expected one answer for each of {len(shard)} probes, got {len(answers)}: {missing} missing, {repeated} "
            f"repeated, {unknown} to probes that nobody asked",
            code="engine_output",
        )
    by_id = {answer.probe_id: answer for answer in answers}
    return [by_id[probe.id] for probe in shard]


def _chosen(
    engine: Engine,
    form: LocalForm,
    shard: Sequence[Probe],
    settings: GenerationSettings,
    progress: Callable[[int, int], None],
) -> list[Answer]:
    if not all(probe.choices for probe in shard):
        raise AssessmentError(
            "expected probes that are all answered or all chosen from, got both at once", code="engine_output"
        )
    if not isinstance(engine, ChoiceEngine):
        raise AssessmentError(
            f"expected an engine that says how likely a form finds given answers, got {engine_identity(engine)}: use "
            "the transformers engine for batteries with instruments that choose",
            code="engine_cannot_choose",
        )
    answers = engine.choose(form, shard, settings, progress)
    texts = {probe.id: probe for probe in shard}
    for answer in answers:
        if answer.probe_id in texts and answer != chosen(texts[answer.probe_id], answer.scores, answer.lengths):
            raise AssessmentError(
                f"probe {answer.probe_id}: expected the likeliest choice with its likelihoods, got another answer",
                code="engine_output",
            )
    return answers


def _digest(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
