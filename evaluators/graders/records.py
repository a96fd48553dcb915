"""What is written beside a grader about how it was made; read by people and by `grader list`, never by a grader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PARITY = "parity.json"
"""How the grader agrees with the model that it was exported from."""


def write_record(file: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON for people."""
    file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
