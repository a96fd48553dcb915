"""Compare names of models and aliases with the patterns of policies, as exactly as each use demands.

What *loosens* (free aliases, exclusions) is compared letter by letter. What *governs* is compared as people and
case-folding databases read it: `Clinical-triage`, `clinical_triage`, full-width letters, invisible characters and
letters that look alike in another alphabet all fall under `clinical-*`. A policy governs by more spellings than it
names, and never frees by any but its own.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from fnmatch import fnmatchcase

from registry_gate.lookalikes import LOOK_ALIKES, UNSEEN


@functools.lru_cache(maxsize=4096)
def fold(name: str) -> str:
    """How a name reads: case, width, accents, alphabet, invisible characters and kind of separator do not count.

    Letters of plain ASCII stay apart (`l`, `1` and `I` in lower case are three), for many honest names differ by one.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    # White space among the controls (tab, line break) separates as a blank does.
    spaced = (" " if c.isspace() else c for c in plain)
    seen = "".join(c for c in spaced if unicodedata.category(c) not in UNSEEN).strip()
    letters = seen.translate(LOOK_ALIKES)
    return "".join("-" if c in " _." or unicodedata.category(c) == "Pd" or c == "\u2212" else c for c in letters)


def matches(value: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns, letter by letter: case counts, look-alike letters differ.

    For what loosens: free aliases and exclusions.
    """
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def reads_like(value: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns as it is written or as it reads. For what governs."""
    return matches(value, patterns) or any(fnmatchcase(fold(value), fold(pattern)) for pattern in patterns)
