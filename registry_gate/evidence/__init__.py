"""Signed evidence: what is stated (`statement`), how it is signed and verified (`envelope`), where it lies (`files`).

`FORMAT.md` beside this file is the written format, for people who verify evidence with other tools.
"""
