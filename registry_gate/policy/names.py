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

# Lower-case letters that NFKD leaves alone and that read as Latin ones, or that MySQL's collations take for them.
_READS_AS = (
    "а=a в=b е=e з=3 к=k м=m н=h о=o р=p с=c т=t у=y х=x ѕ=s і=i ј=j ӏ=l ԁ=d ԛ=q ԝ=w һ=h ҽ=e ԍ=g ү=y ұ=y ѵ=v ӕ=ae "
    "α=a β=b γ=y ε=e η=n ι=i κ=k ν=v ο=o ρ=p σ=o τ=t υ=u χ=x ω=w ϲ=c ϳ=j ζ=z μ=u "
    "ա=w օ=o ս=u ո=n հ=h ց=g զ=q յ=j "
    "ø=o ł=l đ=d ð=d ħ=h ŧ=t ı=i ȷ=j ŋ=n æ=ae œ=oe þ=th ƅ=b ɓ=b ɗ=d ƒ=f ƙ=k ɱ=m ɲ=n ƥ=p ƭ=t ʐ=z ʋ=u "
    "ɑ=a ɐ=a ɡ=g ɩ=i ɪ=i ɫ=l ʟ=l ɴ=n ʀ=r ꜱ=s ᴀ=a ʙ=b ᴄ=c ᴅ=d ᴇ=e ɢ=g ʜ=h ᴊ=j ᴋ=k ᴍ=m ᴏ=o ᴘ=p ᴛ=t ᴜ=u ᴠ=v ᴡ=w ʏ=y ᴢ=z"
)
_LOOK_ALIKES = {ord(pair[0]): pair[2:] for pair in _READS_AS.split()}
_UNSEEN = frozenset({"Mn", "Mc", "Me", "Cf", "Cc", "Cs", "Co", "Cn"})
"""Categories that leave no letter of their own on a page: accents, joiners, controls."""


@functools.lru_cache(maxsize=4096)
def fold(name: str) -> str:
    """How a name reads: case, width, accents, alphabet, invisible characters and kind of separator do not count.

    Letters of plain ASCII stay apart (`l`, `1` and `I` in lower case are three), for many honest names differ by one.
    """
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    # White space among the controls (tab, line break) separates as a blank does.
    spaced = (" " if c.isspace() else c for c in plain)
    seen = "".join(c for c in spaced if unicodedata.category(c) not in _UNSEEN).strip()
    letters = seen.translate(_LOOK_ALIKES)
    return "".join("-" if c in " _." or unicodedata.category(c) == "Pd" or c == "\u2212" else c for c in letters)


def matches(value: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns, letter by letter: case counts, look-alike letters differ.

    For what loosens: free aliases and exclusions.
    """
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def reads_like(value: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns as it is written or as it reads. For what governs."""
    return matches(value, patterns) or any(fnmatchcase(fold(value), fold(pattern)) for pattern in patterns)
