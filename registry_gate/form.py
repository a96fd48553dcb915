"""The adapted form: everything that changes what a served model says, as a manifest with one digest.

Pure values. Reading an artifact into a manifest is `artifact.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FORM_TYPE = "registry-gate/form@1"

WEIGHT_FORMATS: Mapping[str, str] = {
    ".safetensors": "safetensors",
    ".bin": "pickle",
    ".pt": "pickle",
    ".pth": "pickle",
    ".ckpt": "pickle",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".cloudpickle": "pickle",
    ".joblib": "pickle",
    ".dill": "pickle",
    ".npy": "numpy",
    ".npz": "numpy",
    ".gguf": "gguf",
    ".onnx": "onnx",
    ".h5": "keras",
    ".keras": "keras",
    ".msgpack": "flax",
}
"""Format of a weights file by its suffix. `pickle` runs code when it is loaded."""
"""Changes whenever the same bytes would give another digest."""

Role = Literal["weights", "adapter", "tokenizer", "config", "code", "data", "environment", "description"]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of the artifact.

    Args:
        path: Relative path with forward slashes.
        size: Size in bytes.
        sha256: Digest of the bytes, hexadecimal.
        role: What the file is for.
        identity: True when the file is part of the form's digest.
    """

    path: str
    size: int
    sha256: str
    role: Role
    identity: bool


@dataclass(frozen=True, kw_only=True)
class BaseReference:
    """The model that the form was adapted from, as the artifact itself declares it.

    Args:
        kind: `path` (a directory), `version` (a registered model version), `hub` (pinned to a commit).
        name: Path, `models:/name/version` or hub id as declared.
        revision: Hub commit (40 hexadecimal digits); None for the other kinds.
        digest: `sha256:` digest of the base as a form; for `hub` a digest of name and commit.
        declared_in: File of the artifact that names it, e.g. `peft/adapter_config.json`.
        required_to_load: True when the artifact has no complete weights without the base.
    """

    kind: Literal["path", "version", "hub"]
    name: str
    revision: str | None
    digest: str
    declared_in: str
    required_to_load: bool


@dataclass(frozen=True, kw_only=True)
class FormManifest:
    """Everything that is served, listed.

    Args:
        files: All files of the artifact, sorted by path.
        base: The base, or None when the artifact declares none.
        settings: Serving settings that live inside files but are named here for people and policies: chat template
            digest, generation settings, system prompt digest, task, precision, quantisation.
        formats: Formats of the weights: `safetensors`, `pickle`, ...
        remote_code: Files or keys by which loading would run code that the artifact brings along.
        flavor: MLflow flavor that serves it, e.g. `transformers`.
    """

    files: tuple[FileEntry, ...]
    base: BaseReference | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    remote_code: tuple[str, ...] = ()
    flavor: str = ""

    @property
    def digest(self) -> str:
        """The identity that evidence is bound to: `sha256:` over identity files, base digest and settings."""
        body = {
            "type": FORM_TYPE,
            "files": [[f.path, f.size, f.sha256] for f in self.files if f.identity],
            "base": None if self.base is None else [self.base.digest, self.base.required_to_load],
            "settings": dict(self.settings),
            "flavor": self.flavor,
        }
        return "sha256:" + hashlib.sha256(canonical_json(body)).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The manifest as JSON values, digest included."""
        return {"digest": self.digest, **asdict(self), "settings": dict(self.settings)}


def differences(before: FormManifest, after: FormManifest, *, at_most: int = 8) -> list[str]:
    """What makes two forms different, in words: files by path, the base, settings by name."""
    old = {file.path: file.sha256 for file in before.files if file.identity}
    new = {file.path: file.sha256 for file in after.files if file.identity}
    found = [f"{path} changed" for path in sorted(old.keys() & new.keys()) if old[path] != new[path]]
    found += [f"{path} added" for path in sorted(new.keys() - old.keys())]
    found += [f"{path} removed" for path in sorted(old.keys() - new.keys())]
    if (before.base and before.base.digest) != (after.base and after.base.digest):
        found.append("the base changed")
    names = sorted(before.settings.keys() | after.settings.keys())
    found += [f"setting {name} changed" for name in names if before.settings.get(name) != after.settings.get(name)]
    if before.flavor != after.flavor:
        found.append(f"flavor {before.flavor} became {after.flavor}")
    return found if len(found) <= at_most else [*found[:at_most], f"{len(found) - at_most} more differences"]


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no white space, so that equal values have equal bytes. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
