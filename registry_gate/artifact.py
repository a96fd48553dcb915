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
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ruamel.yaml import YAML
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from registry_gate.errors import FormError
from registry_gate.form import WEIGHT_FORMATS, BaseReference, FileEntry, FormManifest, Role, canonical_json

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


@dataclass(frozen=True, kw_only=True)
class TreeState:
    """The files of a tree as they are at one moment, without their bytes.

    Args:
        files: For each file what changes when it is written, sorted.
        settled: False while a file is so young that another write could go unnoticed. No part of the comparison: it
            comes with time alone.
    """

    files: tuple[tuple[Any, ...], ...]
    settled: bool = field(compare=False)


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

    def state(self) -> TreeState | None:
        """What differs as soon as a file was added, removed or written; None where that cannot be told.

        Raises:
            FormError: As `files`.
        """
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
        if _settled(after):
            with self._lock:
                self._known[key] = value
                while len(self._known) > self._entries:
                    self._known.popitem(last=False)
        return value


def _settled(status: os.stat_result) -> bool:
    return time.time() - status.st_ctime > 2


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
            return [TreeFile(path=path, size=status.st_size) for path, status in self._walk()]
        except OSError as err:
            raise FormError(f"{self.root}: expected readable files, got {err}", code="artifact_unreadable") from err

    def state(self) -> TreeState | None:
        """See `ArtifactTree.state`. The same facts as `HashCache`: ctime changes with every write and cannot be set."""
        if not self.root.is_dir():
            return TreeState(files=(), settled=True)
        try:
            found = list(self._walk())
        except OSError as err:
            raise FormError(f"{self.root}: expected readable files, got {err}", code="artifact_unreadable") from err
        return TreeState(
            files=tuple(
                sorted((path, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in found)
            ),
            settled=all(_settled(status) for _, status in found),
        )

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Relative path and status of every file."""
        count = 0
        below = [""]
        while below:
            prefix = below.pop()
            # What cannot be listed raises: passed over, the form would lack its files.
            with os.scandir(self.root / prefix) as entries:
                for entry in entries:
                    if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                        raise FormError(
                            f"{entry.path}: expected regular files only, got a link or special file: "
                            "store the file itself"
                        )
                    if entry.is_dir():
                        below.append(f"{prefix}{entry.name}/")
                        continue
                    count += 1
                    if count > MAX_FILES:
                        raise FormError(f"{self.root}: expected at most {MAX_FILES} files, got more")
                    yield prefix + entry.name, entry.stat(follow_symlinks=False)

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

DirectoryTree = Callable[[str], ArtifactTree]
"""Gives the checkpoint in a directory of this machine, for bases declared by an absolute path."""


BaseOf = Callable[[bool], BaseReference | None]
"""Says what the base is, given whether the artifact needs one to load."""


def checkpoint_at(directory: str) -> ArtifactTree:
    """The checkpoint in a directory.

    Raises:
        FormError: There is no checkpoint. Looked at first: an artifact may name any directory, and the server shall not
            hash somebody's home for it.
    """
    if not (Path(directory) / "config.json").is_file():
        raise FormError(
            f"expected a checkpoint directory with config.json at {directory}, got none", code="base_unresolved"
        )
    return LocalTree(Path(directory), _BASE_CACHE)


def read_manifest(
    tree: ArtifactTree,
    version_tree: VersionTree,
    directory_tree: DirectoryTree = checkpoint_at,
    *,
    depth: int = 0,
    base_of: BaseOf | None = None,
) -> FormManifest:
    """The manifest of the form that an artifact holds.

    Args:
        tree: The artifact: a logged MLflow model, or a Hugging Face checkpoint directory.
        version_tree: How to get at a base that is a registered model version.
        directory_tree: How to get at a base that is a directory.
        depth: How many forms up this one is a base; callers leave it at 0.
        base_of: Asked for the base instead of resolving what the artifact declares: for artifacts on a machine where
            that cannot be resolved. Only for comparing with a digest that was computed the other way.

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

    def read_base(base: ArtifactTree) -> FormManifest:
        return read_manifest(base, version_tree, directory_tree, depth=depth + 1)

    bases = _Bases(version_tree=version_tree, directory_tree=directory_tree, read=read_base)
    return FormManifest(
        files=entries,
        base=_resolve_base(tree, layout, model_file, bases, depth, own_weights)
        if base_of is None
        else base_of(layout.adapter is not None),
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
    served = _served_from_hub(layout, model_file)
    if served is not None:
        # What was measured is the declared base; that serving takes it from this commit is part of what was measured.
        settings["base_served_from"] = list(served)
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


@dataclass(frozen=True, kw_only=True)
class _Bases:
    """How to get at bases, and how to read one."""

    version_tree: VersionTree
    directory_tree: DirectoryTree
    read: Callable[[ArtifactTree], FormManifest]


def _resolve_base(
    tree: ArtifactTree,
    layout: Layout,
    model_file: Mapping[str, Any],
    bases: _Bases,
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
    _require_pinned(tree, layout, model_file, declared)
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
            found = _resolve(name, revision, where, required, bases)
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


def _served_from_hub(layout: Layout, model_file: Mapping[str, Any]) -> tuple[str, Any] | None:
    """(name, revision) of the model that serving an adapter downloads, whatever else is said; None when it does not."""
    conf = (model_file.get("flavors") or {}).get("transformers") or {}
    name = conf.get("source_model_name")
    if layout.adapter is None or layout.model is not None or conf.get("local_base_model_path") or not name:
        return None
    return None if os.path.isabs(str(name)) else (str(name), conf.get("source_model_revision"))


def _require_pinned(
    tree: ArtifactTree,
    layout: Layout,
    model_file: Mapping[str, Any],
    declared: Sequence[tuple[str, str | None, str]],
) -> None:
    """What a hub gives for a name without a commit can be another model tomorrow: refused, with where it is said."""
    unpinned: list[tuple[str, Any, str]] = []
    served = _served_from_hub(layout, model_file)
    if served is not None and _is_bare_name(*served):
        unpinned.append((*served, "MLmodel: source_model_name"))
    if layout.adapter is not None and not declared:
        path = _inside(layout.adapter, "adapter_config.json")
        adapter = _json_of(tree, path)
        if adapter.get("base_model_name_or_path"):
            unpinned.append((str(adapter["base_model_name_or_path"]), adapter.get("revision"), path))
    if unpinned:
        name, revision, where = unpinned[0]
        raise FormError(
            f"{tree.place}: expected the adapter's base pinned to a commit of 40 hexadecimal digits, but {where} names "
            f"{name!r} with the revision {revision!r}, which is looked up anew at every load: save the model with "
            "base_model_path=<directory>, or load the base with revision=<commit> before training and saving",
            code="base_unpinned",
        )


def _is_bare_name(name: str, revision: Any) -> bool:
    """A hub id without a commit, or a relative path: it names nothing in particular, so it declares no base.

    `local_base_model_path` or the metadata key must then say which base is meant.
    """
    return not os.path.isabs(name) and not _COMMIT.match(str(revision or ""))


def _resolve(
    name: str, revision: str | None, where: str, required: bool, bases: _Bases
) -> tuple[BaseReference, list[str] | None]:
    """The reference, and the digests of the base's weights (None when they are not on this machine)."""
    version = re.match(r"^models:/([^/@]+)/(\d+)$", name)
    if version:
        manifest = bases.read(bases.version_tree(version[1], int(version[2])))
        return _reference("version", name, None, manifest, where, required), _weights(manifest)
    if name.startswith("models:/"):
        raise FormError("expected models:/NAME/VERSION with a number: an alias can be moved", code="base_unresolved")
    if os.path.isabs(name):
        manifest = bases.read(bases.directory_tree(name))
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
