"""Read the artifact of a model version into the manifest of its adapted form. Nothing is loaded or executed.

Which files are part of the identity: all of them, except those listed in `DESCRIPTIVE` with the reason. Which base:
the one that the artifact itself names (`adapter_config.json`, MLmodel), never a tag, because tags can be written by
anyone. Whether the form is good enough is for policies; whether it loads is for the engine.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import io
import itertools
import json
import math
import os
import re
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from registry_gate.errors import FormError
from registry_gate.form import BaseReference, FileEntry, FormManifest, Role, canonical_json

DESCRIPTIVE: Mapping[str, tuple[Role, str]] = {
    "MLmodel": ("description", "run ids and dates; its behaviour-relevant keys are in the manifest's settings"),
    "requirements.txt": ("environment", "names packages for serving; changes no weight, template or setting"),
    "conda.yaml": ("environment", "as requirements.txt"),
    "python_env.yaml": ("environment", "as requirements.txt"),
    "LICENSE.txt": ("description", "text for people"),
    "LICENSE": ("description", "text for people"),
    "README.md": ("description", "text for people"),
    "peft/README.md": ("description", "text for people, written by peft"),
    "registered_model_meta": ("description", "written by MLflow into downloaded copies, not part of the artifact"),
}
"""Files that are listed but are no part of the identity, by exact path, with their role and why."""

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

VOLATILE_FLAVOR_KEYS = frozenset(
    {
        "env",  # names environment files
        "python_version",
        "transformers_version",
        "mlflow_version",
        "data",
        # Where the base lies is covered by the base's digest, so that moving it does not change the form.
        "source_model_name",
        "source_model_revision",
        "local_base_model_path",
    }
)

BASE_KEY = "registry_gate.base"
"""Key of the MLmodel metadata that declares a base: `models:/name/version`, a directory, or `hub-id@commit`."""

SYSTEM_PROMPT_KEY = "system_prompt"
"""Key of the MLmodel metadata that holds the system prompt that will be served."""

MAX_FILES = 10_000
MAX_TEXT_BYTES = 64 * 1024 * 1024
MAX_MLMODEL_BYTES = 1024 * 1024
MAX_SETTINGS = 100_000
"""Most values that the settings may hold: YAML anchors can multiply a small MLmodel into gigabytes."""
_CHUNK = 4 * 1024 * 1024
_MAX_BASE_DEPTH = 3
_MAX_NESTING = 100
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """One file of a tree: relative path with forward slashes, and size in bytes."""

    path: str
    size: int


class ArtifactTree(Protocol):
    """The files of one artifact, wherever they are stored."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        ...

    def files(self) -> list[TreeFile]:
        """All regular files.

        Raises:
            FormError: The place cannot be listed.
        """
        ...

    def digests(self, paths: Sequence[str]) -> dict[str, str]:
        """sha256 (hexadecimal) of each path."""
        ...

    def read(self, path: str) -> bytes:
        """The bytes of one small file."""
        ...


class HashCache:
    """sha256 of local files, reused only while the file provably did not change.

    The key is (path, device, inode, size, mtime_ns, ctime_ns). mtime can be set by anyone who may write the file,
    ctime cannot, so a rewritten file is always hashed again. A file whose ctime is younger than two seconds is hashed
    but not remembered, because a second write within the clock's granularity would go unnoticed (git's "racy" case).
    Not safe on file systems that do not keep ctime; remote artifacts never use it.
    """

    def __init__(self, entries: int = 100_000) -> None:
        self._entries = entries
        self._known: OrderedDict[tuple[str, int, int, int, int, int], str] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, path: Path) -> str | None:
        """The remembered digest of a file that did not change since, or None."""
        with self._lock:
            return self._known.get(_stat_key(path, path.lstat()))

    def sha256(self, path: Path) -> str:
        """Digest of a regular file; symbolic links are not followed."""
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(descriptor, "rb") as file:
            key = _stat_key(path, os.fstat(file.fileno()))
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            after = os.fstat(file.fileno())
        if _stat_key(path, after) != key:
            raise FormError(f"{path}: expected a file that stays as it is, got one that changed while it was read")
        value = digest.hexdigest()
        if time.time() - after.st_ctime > 2:
            with self._lock:
                self._known[key] = value
                while len(self._known) > self._entries:
                    self._known.popitem(last=False)
        return value


def _stat_key(path: Path, status: os.stat_result) -> tuple[str, int, int, int, int, int]:
    return (str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class LocalTree:
    """An artifact in a directory of this machine.

    Args:
        root: The directory.
        cache: Shared cache of digests.
    """

    def __init__(self, root: Path, cache: HashCache) -> None:
        self.root = root
        self._cache = cache

    @property
    def place(self) -> str:
        """The directory."""
        return str(self.root)

    def files(self) -> list[TreeFile]:
        """See `ArtifactTree.files`. Symbolic links are refused: what they mean can change without a trace."""
        if not self.root.is_dir():
            raise FormError(
                f"{self.root}: expected the artifact's directory, got nothing there", code="artifact_missing"
            )
        try:
            return self._walk()
        except OSError as err:
            raise FormError(f"{self.root}: expected readable files, got {err}", code="artifact_unreadable") from err

    def _walk(self) -> list[TreeFile]:
        def refuse(error: OSError) -> None:
            # os.walk would pass over a directory that it cannot read, and the form would lack its files.
            raise error

        found = []
        for directory, names, files in os.walk(self.root, onerror=refuse):
            for name in [*names, *files]:
                path = Path(directory) / name
                mode = path.lstat().st_mode
                if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                    raise FormError(
                        f"{path}: expected regular files only, got a link or special file: store the file itself"
                    )
            for name in files:
                path = Path(directory) / name
                found.append(TreeFile(path=path.relative_to(self.root).as_posix(), size=path.stat().st_size))
                if len(found) > MAX_FILES:
                    raise FormError(f"{self.root}: expected at most {MAX_FILES} files, got more")
        return found

    def digests(self, paths: Sequence[str]) -> dict[str, str]:
        """See `ArtifactTree.digests`. Files are hashed in parallel; hashlib releases the GIL."""
        try:
            known = {path: self._cache.known(self.root / path) for path in paths}
            unknown = [path for path, digest in known.items() if digest is None]
            fresh: dict[str, str] = {}
            if unknown:
                with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
                    hashed = pool.map(lambda path: self._cache.sha256(self.root / path), unknown)
                    fresh = dict(zip(unknown, hashed, strict=True))
            return {path: digest if digest is not None else fresh[path] for path, digest in known.items()}
        except OSError as err:
            raise FormError(f"{self.root}: expected readable files, got {err}", code="artifact_unreadable") from err

    def read(self, path: str) -> bytes:
        """See `ArtifactTree.read`."""
        try:
            return (self.root / path).read_bytes()
        except OSError as err:
            raise FormError(f"{self.root}: expected readable files, got {err}", code="artifact_unreadable") from err


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the parts of a form are inside its artifact; None where there is no such part.

    Args:
        model: Directory with `config.json` and weights.
        tokenizer: Directory with the tokenizer.
        adapter: Directory with `adapter_config.json`.
    """

    model: str | None
    tokenizer: str | None
    adapter: str | None


VersionTree = Callable[[str, int], ArtifactTree]
"""Gives the artifact of a registered model version, for bases declared as `models:/name/version`."""


def read_manifest(tree: ArtifactTree, version_tree: VersionTree, *, depth: int = 0) -> FormManifest:
    """The manifest of the form that an artifact holds.

    Args:
        tree: The artifact: a logged MLflow model, or a Hugging Face checkpoint directory.
        version_tree: How to get at a base that is a registered model version.
        depth: How many forms up this one is a base; callers leave it at 0.

    Raises:
        FormError: The artifact cannot be read, holds no model, or names a base that cannot be resolved.
    """
    files = sorted(tree.files(), key=lambda file: file.path)
    if not files:
        raise FormError(f"{tree.place}: expected the files of a model, got an empty artifact", code="artifact_missing")
    paths = [file.path for file in files]
    for path in paths:
        if not _is_text(path):
            raise FormError(f"{tree.place}: expected file names in UTF-8, got {path!r}: rename the file")
    model_file = _mlmodel(tree) if "MLmodel" in paths else {}
    layout = layout_of(paths, model_file)
    # Weights are digested like all files; descriptive ones are digested for the record but carry no identity.
    digests = tree.digests(paths)
    entries = tuple(_entry(file, digests[file.path], layout) for file in files)
    flavors = model_file.get("flavors") or {}
    flavor = "transformers" if "transformers" in flavors else next(iter(sorted(flavors)), "")
    if not model_file and layout.model is not None:
        flavor = "checkpoint"
    settings = _settings(tree, paths, model_file, layout)
    own_weights = sorted(e.sha256 for e in entries if e.role == "weights" and layout.adapter is None)
    return FormManifest(
        files=entries,
        base=_resolve_base(tree, layout, model_file, version_tree, depth, own_weights),
        settings=settings,
        formats=tuple(sorted({_format(e.path) for e in entries if e.role in ("weights", "adapter")})),
        remote_code=_remote_code(tree, paths, model_file, layout),
        flavor=flavor,
    )


def layout_of(paths: Sequence[str], model_file: Mapping[str, Any]) -> Layout:
    """Where the parts of a form are: as MLmodel says for a logged model, else as in a checkpoint directory."""
    present = set(paths)
    conf = (model_file.get("flavors") or {}).get("transformers") or {}

    def directory(name: Any, marker: str) -> str | None:
        return name if isinstance(name, str) and f"{name}/{marker}" in present else None

    if conf:
        model = directory(conf.get("model_binary"), "config.json")
        tokenizer = next(
            (d for d in ("components/tokenizer", "tokenizer", model or "") if d and _has_tokenizer(present, d)), None
        )
        return Layout(
            model=model, tokenizer=tokenizer, adapter=directory(conf.get("peft_adaptor"), "adapter_config.json")
        )
    root_model = "." if "config.json" in present else None
    return Layout(
        model=root_model,
        tokenizer="." if _has_tokenizer(present, ".") else None,
        adapter="." if "adapter_config.json" in present else None,
    )


def read_layout(tree: ArtifactTree) -> Layout:
    """`layout_of` for a tree."""
    paths = [file.path for file in tree.files()]
    return layout_of(paths, _mlmodel(tree) if "MLmodel" in paths else {})


def _has_tokenizer(present: set[str], directory: str) -> bool:
    prefix = "" if directory == "." else f"{directory}/"
    return f"{prefix}tokenizer_config.json" in present or f"{prefix}tokenizer.json" in present


def _mlmodel(tree: ArtifactTree) -> dict[str, Any]:
    parsed = _parse_mlmodel(tree.read("MLmodel"))
    if not isinstance(parsed, dict):
        raise FormError(f"{tree.place}/MLmodel: expected MLflow's model file, got {parsed}", code="mlmodel_invalid")
    return parsed


@functools.lru_cache(maxsize=256)
def _parse_mlmodel(data: bytes) -> dict[str, Any] | str:
    """The parsed file, or what is wrong with it (a string, so that a broken file is cached too)."""
    if len(data) > MAX_MLMODEL_BYTES:
        return f"a file of {len(data)} bytes"
    try:
        # Before anything is built: the parser's time grows with the square of the nesting.
        depth = 0
        for event in YAML(typ="safe", pure=True).parse(io.BytesIO(data)):
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > _MAX_NESTING:
                return f"more than {_MAX_NESTING} levels"
        parsed = YAML(typ="safe", pure=True).load(io.BytesIO(data))
    except Exception as err:  # ruamel raises IndexError for `+_`, and more of that kind for other odd scalars
        return f"no valid YAML ({type(err).__name__})"
    if not isinstance(parsed, dict) or not isinstance(parsed.get("flavors"), dict):
        return "a file without flavors"
    for name, conf in parsed["flavors"].items():
        if not isinstance(name, str) or not isinstance(conf, dict | None):
            return f"a flavor {name!r} that is no mapping"
    if not isinstance(parsed.get("metadata"), dict | None):
        return "metadata that is no mapping"
    return parsed


def _entry(file: TreeFile, sha256: str, layout: Layout) -> FileEntry:
    descriptive = DESCRIPTIVE.get(file.path)
    role = descriptive[0] if descriptive else _role(file.path, layout)
    return FileEntry(path=file.path, size=file.size, sha256=sha256, role=role, identity=descriptive is None)


def _role(path: str, layout: Layout) -> Role:
    inside = PurePosixPath(path)
    if _format(path) != "other":
        return "adapter" if layout.adapter not in (None, ".") and path.startswith(f"{layout.adapter}/") else "weights"
    if inside.suffix in (".py", ".so"):
        return "code"
    if any(fnmatch.fnmatch(inside.name, p) for p in ("tokenizer*", "vocab*", "merges*", "*.jinja", "special_tokens*")):
        return "tokenizer"
    return "config" if inside.suffix in (".json", ".yaml", ".txt") else "data"


def _format(path: str) -> str:
    return WEIGHT_FORMATS.get(PurePosixPath(path).suffix.lower(), "other")


def _json_of(tree: ArtifactTree, path: str) -> dict[str, Any]:
    data = tree.read(path)
    if len(data) > MAX_TEXT_BYTES:
        raise FormError(
            f"{tree.place}/{path}: expected at most {MAX_TEXT_BYTES} bytes, got {len(data)}", code="config_invalid"
        )
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise FormError(f"{tree.place}/{path}: expected JSON, got: {err}", code="config_invalid") from err
    if not isinstance(value, dict):
        raise FormError(
            f"{tree.place}/{path}: expected a JSON object, got a {type(value).__name__}", code="config_invalid"
        )
    return value


def _inside(directory: str | None, name: str) -> str:
    return name if directory in (None, ".", "") else f"{directory}/{name}"


def _settings(
    tree: ArtifactTree, paths: Sequence[str], model_file: Mapping[str, Any], layout: Layout
) -> dict[str, Any]:
    """The behaviour-relevant part of MLmodel, and what people ask for first, lifted out of the files."""
    flavors = {
        name: {key: value for key, value in (conf or {}).items() if key not in VOLATILE_FLAVOR_KEYS}
        for name, conf in (model_file.get("flavors") or {}).items()
    }
    metadata = model_file.get("metadata") or {}
    settings: dict[str, Any] = {"flavors": flavors, "metadata": metadata}
    prompt = metadata.get(SYSTEM_PROMPT_KEY)
    if prompt is not None:
        if not isinstance(prompt, str):
            raise FormError(
                f"{tree.place}/MLmodel: expected metadata.{SYSTEM_PROMPT_KEY} to be text", code="mlmodel_invalid"
            )
        settings["system_prompt_sha256"] = _sha256(prompt)
    template = _inside(layout.tokenizer, "chat_template.jinja")
    tokenizer_config = _inside(layout.tokenizer, "tokenizer_config.json")
    if template in paths:
        settings["chat_template_sha256"] = hashlib.sha256(tree.read(template)).hexdigest()
    elif tokenizer_config in paths:
        inline = _json_of(tree, tokenizer_config).get("chat_template")
        if inline is not None:
            settings["chat_template_sha256"] = _sha256(
                json.dumps(inline, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            )
    generation = _inside(layout.model, "generation_config.json")
    if generation in paths:
        settings["generation"] = {
            key: value for key, value in _json_of(tree, generation).items() if key != "transformers_version"
        }
    config = _inside(layout.model, "config.json")
    if layout.model is not None and config in paths:
        content = _json_of(tree, config)
        settings["architecture"] = content.get("architectures")
        settings["dtype"] = content.get("dtype", content.get("torch_dtype"))
        if "quantization_config" in content:
            settings["quantisation"] = content["quantization_config"]
    try:
        plain: dict[str, Any] = _plain(settings, itertools.count())
    except ValueError as err:
        raise FormError(
            f"{tree.place}: expected settings that can be digested, got {err}", code="config_invalid"
        ) from err
    return plain


def _plain(value: Any, seen: Iterator[int], depth: int = 0) -> Any:
    """JSON values only, so that equal settings have equal bytes. MLmodel is YAML: dates and the like become text.

    Raises:
        ValueError: There are too many values, or one that has no single meaning in JSON.
    """
    if next(seen) >= MAX_SETTINGS or depth > _MAX_NESTING:
        raise ValueError(f"more than {MAX_SETTINGS} values or {_MAX_NESTING} levels")
    if isinstance(value, dict):
        named = {str(key): _plain(item, seen, depth + 1) for key, item in value.items()}
        if len(named) != len(value) or not all(map(_is_text, named)):
            raise ValueError("keys that cannot be told apart as text")
        return named
    if isinstance(value, list | tuple):
        return [_plain(item, seen, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the number {value}")
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    if not _is_text(text):
        raise ValueError(f"the text {text[:40]!r}, which has no UTF-8 bytes")
    return text


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _sha256(text: str) -> str:
    # What has no UTF-8 bytes is refused when the settings are complete.
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _remote_code(
    tree: ArtifactTree, paths: Sequence[str], model_file: Mapping[str, Any], layout: Layout
) -> tuple[str, ...]:
    found = [path for path in paths if PurePosixPath(path).suffix in (".py", ".so")]
    for directory, name in ((layout.model, "config.json"), (layout.tokenizer, "tokenizer_config.json")):
        path = _inside(directory, name)
        if path in paths and "auto_map" in _json_of(tree, path):
            found.append(f"{path}: auto_map")
    for flavor, conf in (model_file.get("flavors") or {}).items():
        found += [f"MLmodel: {flavor}.{key}" for key in ("code", "model_code_path") if (conf or {}).get(key)]
    return tuple(sorted(found))


# ---------------------------------------------------------------------------------------------------------------------
# The base


def _resolve_base(
    tree: ArtifactTree,
    layout: Layout,
    model_file: Mapping[str, Any],
    version_tree: VersionTree,
    depth: int,
    own_weights: list[str],
) -> BaseReference | None:
    """The most binding declaration must resolve; every other one that resolves must mean the same weights.

    Others may fail to resolve: an adapter trained elsewhere names a directory of that machine.
    """
    if depth >= _MAX_BASE_DEPTH:
        raise FormError(
            f"{tree.place}: expected at most {_MAX_BASE_DEPTH} bases in a row, got more", code="base_unresolved"
        )
    required = layout.adapter is not None
    declared = _declarations(tree, layout, model_file)
    how = (
        f"Save the model with base_model_path=<directory>, pin the hub commit, or log it with "
        f'metadata={{"{BASE_KEY}": "models:/NAME/VERSION"}}'
    )
    if not declared:
        if required:
            raise FormError(f"{tree.place}: expected a base for the adapter, got none. {how}", code="base_unresolved")
        return None
    resolved: list[tuple[BaseReference, list[str] | None]] = []
    seen: set[tuple[str, str | None]] = set()
    for name, revision, where in declared:
        if (name, revision) in seen:
            continue  # MLflow and peft often write the same directory: what it means was looked up already
        seen.add((name, revision))
        try:
            found = _resolve(name, revision, where, required, version_tree, depth)
        except FormError as err:
            if not resolved:
                raise FormError(
                    f"{tree.place}: expected a base that can be resolved, but {where} names {name!r}: {err}. {how}",
                    code="base_unresolved",
                ) from err
            continue
        # A complete model that names the directory it was loaded from names itself, which is no base.
        if required or found[1] != own_weights:
            resolved.append(found)
    if not resolved:
        return None
    weights = {tuple(w) for _, w in resolved if w is not None}
    if len(weights) > 1:
        places = ", ".join(f"{ref.declared_in} -> {ref.name}" for ref, _ in resolved)
        raise FormError(
            f"{tree.place}: expected all declarations of the base to mean the same weights, got others ({places})",
            code="base_mismatch",
        )
    return resolved[0][0]


def _declarations(
    tree: ArtifactTree, layout: Layout, model_file: Mapping[str, Any]
) -> list[tuple[str, str | None, str]]:
    """(name, revision, file) of every declaration, the most binding first: what serving loads, then what is said."""
    conf = (model_file.get("flavors") or {}).get("transformers") or {}
    found: list[tuple[str, str | None, str]] = []
    if conf.get("local_base_model_path"):
        found.append((str(conf["local_base_model_path"]), None, "MLmodel: local_base_model_path"))
    metadata = model_file.get("metadata") or {}
    if metadata.get(BASE_KEY):
        found.append((str(metadata[BASE_KEY]), None, f"MLmodel: metadata.{BASE_KEY}"))
    if layout.adapter is not None:
        path = _inside(layout.adapter, "adapter_config.json")
        adapter = _json_of(tree, path)
        name = adapter.get("base_model_name_or_path")
        if name and not _is_bare_name(str(name), adapter.get("revision")):
            found.append((str(name), adapter.get("revision"), path))
    name, revision = conf.get("source_model_name"), conf.get("source_model_revision")
    # MLflow writes where the model was loaded from: the base of an adapter, but of a complete model perhaps only a
    # checkpoint of the same tuning run. What the author declared outranks it.
    if name and not _is_bare_name(str(name), revision) and (layout.adapter is not None or not metadata.get(BASE_KEY)):
        found.append((str(name), revision, "MLmodel: source_model_name"))
    return found


def _is_bare_name(name: str, revision: Any) -> bool:
    """A hub id without a commit, or a relative path: it names nothing in particular, so it declares no base.

    `local_base_model_path` or the metadata key must then say which base is meant.
    """
    return not os.path.isabs(name) and not _COMMIT.match(str(revision or ""))


def _resolve(
    name: str, revision: str | None, where: str, required: bool, version_tree: VersionTree, depth: int
) -> tuple[BaseReference, list[str] | None]:
    """The reference, and the digests of the base's weights (None when they are not on this machine)."""
    version = re.match(r"^models:/([^/@]+)/(\d+)$", name)
    if version:
        manifest = read_manifest(version_tree(version[1], int(version[2])), version_tree, depth=depth + 1)
        return _reference("version", name, None, manifest, where, required), _weights(manifest)
    if name.startswith("models:/"):
        raise FormError("expected models:/NAME/VERSION with a number: an alias can be moved", code="base_unresolved")
    if os.path.isabs(name):
        # Looked at first: an artifact may name any directory, and the server shall not hash somebody's home for it.
        if not (Path(name) / "config.json").is_file():
            raise FormError(
                f"expected a checkpoint directory with config.json at {name}, got none", code="base_unresolved"
            )
        tree = LocalTree(Path(name), _BASE_CACHE)
        manifest = read_manifest(tree, version_tree, depth=depth + 1)
        if "weights" not in {file.role for file in manifest.files}:
            raise FormError(f"{name}: expected weights of the base, got none", code="base_unresolved")
        return _reference("path", name, None, manifest, where, required), _weights(manifest)
    hub, _, commit = name.partition("@")
    commit = commit or str(revision or "")
    if not _COMMIT.match(commit):
        raise FormError(
            f"expected a hub id pinned to a commit (hub-id@<40 hexadecimal digits>), got {name!r}",
            code="base_unresolved",
        )
    digest = "sha256:" + hashlib.sha256(canonical_json(["hub", hub, commit])).hexdigest()
    reference = BaseReference(
        kind="hub", name=hub, revision=commit, digest=digest, declared_in=where, required_to_load=required
    )
    return reference, None


def _reference(
    kind: Any, name: str, revision: str | None, manifest: FormManifest, where: str, required: bool
) -> BaseReference:
    return BaseReference(
        kind=kind, name=name, revision=revision, digest=manifest.digest, declared_in=where, required_to_load=required
    )


def _weights(manifest: FormManifest) -> list[str]:
    return sorted(file.sha256 for file in manifest.files if file.role == "weights")


_BASE_CACHE = HashCache()
