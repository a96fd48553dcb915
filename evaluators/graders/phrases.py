"""Grade answers by phrases that a YAML file lists: a rule grader that needs no code.

A grader is a directory with `grader.yaml` of `kind: phrases`. An answer gets the positive label when it holds one of
the phrases and none of the exceptions. A phrase is words in a row, in any case, with anything but letters between them;
a word that ends in `*` stands for every word that begins so. There are no other patterns, so no phrase can be slow.

Like every rule grader it reads no meaning: what it misses and what it takes for granted is for its self-check and its
card to say. It never votes where a trained grader of the axis is at hand.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evaluators.graders.description import read_description, require_labels
from evaluators.graders.interface import LABELS, Graded, GraderIdentity, GradingItem, NotGraded, Progress
from registry_gate.errors import AssessmentError

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*\*?")
_SPOKEN = str.maketrans({"’": "'", "‘": "'"})


class PhraseCheck(BaseModel):
    """An answer whose label is known, graded each time the grader is loaded."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    answer: str
    label: str


class PhraseFile(BaseModel):
    """`grader.yaml` of a phrase grader.

    Args:
        kind: `phrases`.
        name: Name that batteries use.
        version: Version of the name; quoted, so that `1.10` stays `1.10`.
        axis: What it labels: one of the axes that exist, or one of your own with `labels`.
        labels: Negative and positive label of an axis of your own.
        phrases: An answer that holds one of these gets the positive label,
        unless: if it holds none of these.
        self_check: Two answers or more, at least one of each label.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Literal["phrases"]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: str = Field(min_length=1)
    axis: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    labels: list[str] = Field(default_factory=list)
    phrases: list[str] = Field(min_length=1)
    unless: list[str] = Field(default_factory=list)
    self_check: list[PhraseCheck] = Field(min_length=2)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> PhraseFile:
        require_labels(self.axis, self.labels)
        words = self.words
        if {check.label for check in self.self_check} != set(words):
            raise ValueError(f"self_check: expected answers of both labels, {words[0]!r} and {words[1]!r}")
        for phrase in [*self.phrases, *self.unless]:
            if not _WORD.findall(phrase) or len(phrase) > 200:
                raise ValueError(f"phrases: expected one word or more and at most 200 characters, got {phrase[:60]!r}")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """The labels, the positive one last."""
        return LABELS.get(self.axis, tuple(self.labels))


class PhraseGrader:
    """Labels answers by phrases.

    Args:
        directory: Holds `grader.yaml`.

    Raises:
        AssessmentError: The file is missing or breaks the schema, or a self-check fails.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "grader.yaml"
        self._file = read_description(path, PhraseFile, "a phrase grader")
        self._phrases = [_pattern(phrase) for phrase in self._file.phrases]
        self._unless = [_pattern(phrase) for phrase in self._file.unless]
        body = json.dumps(self._file.model_dump(), sort_keys=True, ensure_ascii=False)
        self._identity = GraderIdentity(
            name=self._file.name,
            version=self._file.version,
            family="rule",
            axis=self._file.axis,
            digest="sha256:" + hashlib.sha256(body.encode()).hexdigest(),
            runtime="python",
            labels=tuple(self._file.labels),
        )
        for number, check in enumerate(self._file.self_check, start=1):
            got = self._file.words[self._holds(check.answer)]
            if got != check.label:
                raise AssessmentError(
                    f"{path}: self-check {number} of {len(self._file.self_check)}: expected {check.label}, got {got}: "
                    "correct the phrases, or the check",
                    code="grader_self_check",
                )

    @property
    def identity(self) -> GraderIdentity:
        """Who grades; the digest is over everything in the file."""
        return self._identity

    def grade(self, items: Sequence[GradingItem], progress: Progress) -> list[Graded | NotGraded]:
        """Label every item, in order. The probe is not read."""
        outcomes: list[Graded | NotGraded] = []
        for number, item in enumerate(items, 1):
            positive = self._holds(item.answer)
            outcomes.append(Graded(label=self._file.words[positive], probability=float(positive)))
            if number % 1000 == 0 or number == len(items):
                progress(number, len(items))
        return outcomes

    def _holds(self, answer: str) -> bool:
        text = answer.translate(_SPOKEN).casefold()
        return any(p.search(text) for p in self._phrases) and not any(p.search(text) for p in self._unless)


def _pattern(phrase: str) -> re.Pattern[str]:
    words = [
        re.escape(word[:-1]) + r"\w*" if word.endswith("*") else re.escape(word)
        for word in _WORD.findall(phrase.translate(_SPOKEN).casefold())
    ]
    return re.compile(r"(?<!\w)" + r"[^\w]+".join(words) + r"(?!\w)")
