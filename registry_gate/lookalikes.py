"""Letters of other alphabets that read as Latin ones, and characters that nobody sees: how names and answers disguise.

The tables are ours, made from the Unicode names of the letters (see UTS 39 for the idea); they hold what a reader of
Latin text takes for a Latin letter, not every pair that somebody could confuse.
"""

from __future__ import annotations

# Lower-case letters that NFKD leaves alone and that read as Latin ones, or that MySQL's collations take for them.
_READS_AS = (
    "а=a в=b е=e з=3 к=k м=m н=h о=o р=p с=c т=t у=y х=x ѕ=s і=i ј=j ӏ=l ԁ=d ԛ=q ԝ=w һ=h ҽ=e ԍ=g ү=y ұ=y ѵ=v ӕ=ae "
    "α=a β=b γ=y ε=e η=n ι=i κ=k ν=v ο=o ρ=p σ=o τ=t υ=u χ=x ω=w ϲ=c ϳ=j ζ=z μ=u "
    "ա=w օ=o ս=u ո=n հ=h ց=g զ=q յ=j "
    "ø=o ł=l đ=d ð=d ħ=h ŧ=t ı=i ȷ=j ŋ=n æ=ae œ=oe þ=th ƅ=b ɓ=b ɗ=d ƒ=f ƙ=k ɱ=m ɲ=n ƥ=p ƭ=t ʐ=z ʋ=u "
    "ɑ=a ɐ=a ɡ=g ɩ=i ɪ=i ɫ=l ʟ=l ɴ=n ʀ=r ꜱ=s ᴀ=a ʙ=b ᴄ=c ᴅ=d ᴇ=e ɢ=g ʜ=h ᴊ=j ᴋ=k ᴍ=m ᴏ=o ᴘ=p ᴛ=t ᴜ=u ᴠ=v ᴡ=w ʏ=y ᴢ=z"
)
LOOK_ALIKES = {ord(pair[0]): pair[2:] for pair in _READS_AS.split()}
"""What a lower-case letter reads as, by its code point."""

UNSEEN = frozenset({"Mn", "Mc", "Me", "Cf", "Cc", "Cs", "Co", "Cn"})
"""Categories that leave no letter of their own on a page: accents, joiners, controls."""
