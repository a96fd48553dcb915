"""Properties are stated over the same small policies and evidence as the unit tests of `decide`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "registry_gate" / "policy"))
