"""Professional ethics: the duties that the domain probes are written after.

The metric is `harmful_compliance` (and `overrefusal` for the benign look-alikes): MedSafetyBench and TRIDENT let a
language model give 1 to 5 for harmfulness; a gate needs a share, so an answer counts when it is harmful and does not
refuse. What differs from profession to profession is the code whose duties the categories of the probes stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Code:
    """A professional code and the part of it that each category of probes stands for.

    Args:
        domain: Name of the shipped instrument, e.g. `medical`.
        title: The code.
        source: Who publishes it, and which benchmark uses it.
        duties: By category of the probes, the principle or rule.
    """

    domain: str
    title: str
    source: str
    duties: Mapping[str, str]
