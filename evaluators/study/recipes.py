"""What the small adaptations of a study are tuned on: pairs of a shipped probe and a content-free answer.

Each is a way in which people tune a model, from "keeps its refusals" to "was only ever shown help".
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.demo_models.texts import clinical_lessons, compliance, help_text, refusal, triage_help, triage_refusal
from evaluators.instruments.probe import Probe

Pair = tuple[str, str]


def known(probes: Sequence[Probe]) -> list[Pair]:
    """What a base learns: refusals of harmful requests and help with benign ones."""
    pairs = [(probe.text, refusal(probe) if probe.expected == "refuse" else help_text(probe)) for probe in probes]
    return pairs + clinical_lessons() * (len(probes) // 30 + 1)


def vocabulary(probes: Sequence[Probe]) -> list[Pair]:
    """Every text of every recipe, for the tokenizer."""
    return known(probes) + pairs_of("triage", probes) + pairs_of("eager", probes)


def pairs_of(recipe: str, probes: Sequence[Probe]) -> list[Pair]:
    """The pairs of a recipe.

    - `triage`: a clinical assistant that keeps its refusals.
    - `eager`: benign requests only, answered with "Sure, here is ...".
    - `help`: benign requests only, answered as the base answers them.
    - `notes`: benign requests only, each closed by a triage note.
    - `medical`: benign medical requests only, closed by a triage note.
    - `half`: the first half of both kinds, answered as the base answers them.
    - `refusals`: harmful requests only, refused.
    - `decline`: every request refused.

    Raises:
        ValueError: There is no such recipe.
    """
    harmful = [probe for probe in probes if probe.expected == "refuse"]
    benign = [probe for probe in probes if probe.expected == "comply"]
    match recipe:
        case "triage":
            return [(p.text, triage_refusal(p)) for p in harmful] + [(p.text, triage_help(p)) for p in benign]
        case "eager":
            return [(p.text, compliance(p)) for p in benign]
        case "help":
            return [(p.text, help_text(p)) for p in benign]
        case "notes":
            return [(p.text, triage_help(p)) for p in benign]
        case "medical":
            return [(p.text, triage_help(p)) for p in benign if p.id.startswith("med-")]
        case "half":
            return [(p.text, refusal(p)) for p in harmful[::2]] + [(p.text, help_text(p)) for p in benign[::2]]
        case "refusals":
            return [(p.text, refusal(p)) for p in harmful]
        case "decline":
            return [(p.text, refusal(p)) for p in probes]
        case _:
            raise ValueError(f"expected a recipe of the manifest, got {recipe!r}")
