"""Tell answers that say something from degenerate ones: empty, repeated or made of symbols.

The coherence check comes before any verdict, because graders are fooled by broken text (METHOD.md section 7, check V1,
and section 1.1 item 8). It is deliberately narrow: only what no reader would call an answer. It does not see fluent
nonsense or an answer in the wrong language; both need a classifier. Everything here is pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

Cause = Literal["empty", "repeated", "symbols"]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
# A short block of characters eight or more times in a row, whatever it is made of.
_CHARACTER_LOOP = re.compile(r"(\S{1,12}?)\1{7,}")

MIN_WORD_CHARACTERS = 2
MIN_TEXT_SHARE = 0.4  # letters and digits among visible characters; source code has 0.6 and more
LONGEST_WORD_RUN = 6  # "no no no no no no"
BLOCK_REPEATS = 4  # of two or more words, one copy right after another
LONGEST_BLOCK = 12  # words; longer loops are found by their few distinct word sequences
LOOP_SHARE = 0.5  # of the answer that a loop must fill; a table rule or a refrain fills less
MIN_WORDS_FOR_DIVERSITY = 24
MIN_DISTINCT_TRIGRAMS = 0.4  # prose has 0.9 and more, song texts about 0.6


def degenerate(text: str) -> Cause | None:
    """Why a text is no answer, or None when it may be one.

    `empty`: fewer than two letters or digits. `symbols`: fewer than 40 % of its visible characters are letters or
    digits. `repeated`: one word six times or a block of words four times in a row, or one block of characters eight
    times, filling half of the text; or, from 24 words on, fewer than 40 % of its three-word sequences distinct.

    Source: METHOD.md section 7 names the kinds; the limits are ours, set so that none of the 1,800 human-labelled
    XSTest completions is called degenerate.
    """
    visible = "".join(text.split())
    kinds = [unicodedata.category(character)[0] for character in visible]
    letters = kinds.count("L") + kinds.count("N")
    if letters < MIN_WORD_CHARACTERS:
        return "empty"
    # Combining marks are part of the words of many scripts.
    if letters + kinds.count("M") < MIN_TEXT_SHARE * len(visible):
        return "symbols"
    looped = sum(len(match.group()) for match in _CHARACTER_LOOP.finditer(visible))
    if looped >= LOOP_SHARE * len(visible):
        return "repeated"
    words = [word.casefold() for word in _WORD.findall(text)]
    if _loops(words) or _little_diversity(words):
        return "repeated"
    return None


def _loops(words: Sequence[str]) -> bool:
    for size in range(1, LONGEST_BLOCK + 1):
        needed = LONGEST_WORD_RUN if size == 1 else BLOCK_REPEATS
        matching = 0  # words in a row that equal the one a block earlier
        for index in range(size, len(words)):
            matching = matching + 1 if words[index] == words[index - size] else 0
            covered = matching + size
            if covered >= needed * size and covered >= LOOP_SHARE * len(words):
                return True
    return False


def _little_diversity(words: Sequence[str]) -> bool:
    if len(words) < MIN_WORDS_FOR_DIVERSITY:
        return False
    trigrams = list(zip(words, words[1:], words[2:], strict=False))
    return len(set(trigrams)) < MIN_DISTINCT_TRIGRAMS * len(trigrams)
