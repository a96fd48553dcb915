"""The plug point for engines: what obtains answers from a form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from evaluators.instruments.probe import Probe
from registry_gate.errors import AssessmentError

Progress = Callable[[int, int], None]
"""Called with (probes answered, probes in all)."""


@dataclass(frozen=True, kw_only=True)
class LocalForm:
    """An adapted form as directories on this machine, ready to load.

    Args:
        digest: Digest of the form's manifest, `sha256:...`.
        model_dir: Directory with `config.json` and safetensors weights (of the base when there is an adapter).
        tokenizer_dir: Directory with the tokenizer that will be served.
        adapter_dir: Directory with `adapter_config.json` and adapter weights, or None.
        chat_template: Jinja source that replaces the tokenizer's own; None leaves the tokenizer's.
        system_prompt: System prompt that is part of the served form, or None.
    """

    digest: str
    model_dir: Path
    tokenizer_dir: Path
    adapter_dir: Path | None = None
    chat_template: str | None = None
    system_prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How answers are obtained; the same for base and adapted form, and recorded in evidence.

    Args:
        max_new_tokens: Longest answer, in tokens.
        precision: `fp32`, `bf16` or `fp16`. Answers depend on it (PERFORMANCE.md section 3).
        batch_size: Largest number of probes generated at once. Not part of the identity for fp32.
        seed: Seed given to torch before generation.
        temperature: 0 means greedy, which is what gates use.
    """

    max_new_tokens: int = 64
    precision: str = "fp32"
    batch_size: int = 32
    seed: int = 0
    temperature: float = 0.0

    def identity(self) -> dict[str, object]:
        """The settings that may change an answer, for evidence and cache keys."""
        fields = asdict(self)
        if self.precision == "fp32":
            del fields["batch_size"]
        return fields


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a form answered to one probe.

    Args:
        probe_id: Id of the probe.
        text: The decoded answer without special tokens.
        tokens: Number of generated tokens, the end token not counted.
        finish: `stop` when the form ended the answer, `length` when it was cut at max_new_tokens, `choice` when nothing
            was generated because the form was asked how likely it finds each of the probe's choices.
        scores: With `choice`: natural log-likelihood of each choice after the prompt, summed over its tokens, in the
            order of the probe's choices. `text` is then the likeliest one.
        lengths: With `choice`: number of tokens of each choice.
    """

    probe_id: str
    text: str
    tokens: int
    finish: str
    scores: tuple[float, ...] = ()
    lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "scores", tuple(self.scores))
        object.__setattr__(self, "lengths", tuple(self.lengths))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; an answer that was generated has no scores."""
        values: dict[str, Any] = {
            "probe_id": self.probe_id, "text": self.text, "tokens": self.tokens, "finish": self.finish
        }  # fmt: skip
        if self.finish == "choice":
            values |= {"scores": list(self.scores), "lengths": list(self.lengths)}
        return values


def chosen(probe: Probe, scores: Sequence[float], lengths: Sequence[int]) -> Answer:
    """The answer of a form that finds the choices of a probe so likely.

    Raises:
        AssessmentError: Not one finite log-likelihood of at most 0, and one length, for each choice.
    """
    if len(scores) != len(probe.choices) or len(lengths) != len(probe.choices):
        raise AssessmentError(
            f"probe {probe.id}: expected a log-likelihood and a length for each of {len(probe.choices)} choices, got "
            f"{len(scores)} and {len(lengths)}",
            code="engine_output",
        )
    if not all(math.isfinite(score) and score <= 0 for score in scores) or min(lengths) < 1:
        raise AssessmentError(
            f"probe {probe.id}: expected log-likelihoods that are finite and at most 0, over one token or more, got "
            "others; the form's weights do not survive this precision or are broken",
            code="nonfinite_logits",
        )
    best = max(range(len(scores)), key=lambda index: (scores[index], -index))
    return Answer(
        probe_id=probe.id,
        text=probe.choices[best],
        tokens=sum(lengths),
        finish="choice",
        scores=tuple(scores),
        lengths=tuple(lengths),
    )


class Engine(Protocol):
    """Obtains one answer for each probe, in the order of the probes."""

    def answer(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        """Answer every probe exactly once.

        Raises:
            AssessmentError: The form cannot be loaded safely, or generation failed, timed out or ran out of memory.
        """
        ...


@runtime_checkable
class ChoiceEngine(Protocol):
    """An engine that can also say how likely a form finds given answers. Instruments that choose need one."""

    def choose(
        self, form: LocalForm, probes: Sequence[Probe], settings: GenerationSettings, progress: Progress
    ) -> list[Answer]:
        """Log-likelihoods of every choice of every probe, in the order of the probes.

        Raises:
            AssessmentError: As `answer`, or a likelihood is not finite.
        """
        ...
