"""Refuse every write under an approved version's files, in MLflow's own repository of whatever kind the root is.

A repository keeps its class as a base, because MLflow's handlers ask what it can do by `isinstance`. Each method that
changes what is stored is guarded; reads are MLflow's own. A local root publishes a file by renaming it and takes the
ledger's lock for that moment. Other roots write for as long as it takes: the ledger knows of it meanwhile, and
promotes nothing below.

What an upload that MLflow hands out to clients could do later, past the server, is refused or harmless: a presigned
upload would change bytes without asking anybody, so there is none; parts of a multipart upload on S3 and Google Cloud
change nothing until the server completes it; the tokens that Azure would get may write the object itself, so multipart
is not offered there and clients upload through the server.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import posixpath
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import AsyncIterable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO
from urllib.parse import unquote

from mlflow.exceptions import MlflowException, _UnsupportedMultipartUploadException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, PERMISSION_DENIED
from mlflow.store.artifact.artifact_repo import (
    ArtifactRepository,
    MultipartUploadMixin,
    PresignedUploadMixin,
    StreamUploadMixin,
)
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path

from registry_gate.errors import LedgerError
from registry_gate.ledger.frozen import WRITE_LEASE, FrozenError, FrozenTrees, OutsideRootError, spellings
from registry_gate.mlflow_plugin.root import (
    DESTINATION_VARIABLE,
    PREFIX,
    below_root,
    destination,
    is_local,
    repository_at,
    ungated,
)
from registry_gate.mlflow_plugin.tripwire import refusal

RESERVED = ".registry-gate"
"""First segment of paths that are always refused, so that `doctor` can ask from outside whether the root is gated."""

STAGING_PREFIX = ".artifact.uploading."
"""MLflow's own prefix of files that are being written; its listings leave them out and uploads may not use it."""

DRAINED_BYTES = 64 * 1024 * 1024
"""How much of a refused body is read and thrown away, so that the client gets to read the answer."""

_PARTS_HARMLESS = ("s3", "r2", "b2", "gs")
"""Schemes of roots where the parts of a multipart upload change nothing until it is completed."""

_BAD_PATH = frozenset({errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EINVAL})
"""What the operating system says of paths that name nothing that could be written."""

_logger = logging.getLogger(__name__)


def guarded_repository(artifact_uri: str, tracking_uri: str | None, registry_uri: str | None) -> ArtifactRepository:
    """See `artifacts.build_repository`."""
    inner_uri = ungated(artifact_uri)
    if not inner_uri:
        raise MlflowException(
            f"registry-gate expects {PREFIX}<artifact root>, e.g. {PREFIX}./artifacts or {PREFIX}s3://bucket/path, "
            "got nothing after the colon",
            error_code=INVALID_PARAMETER_VALUE,
        )
    repository: Any = repository_at(inner_uri, tracking_uri, registry_uri)
    inner = type(repository)
    parts: list[type] = [_Guarded]
    if isinstance(repository, MultipartUploadMixin):
        parts.append(_GuardedMultipart)
    if isinstance(repository, PresignedUploadMixin):
        parts.append(_GuardedPresigned)
    if isinstance(repository, LocalArtifactRepository):
        parts.append(_GuardedLocal)
    elif isinstance(repository, StreamUploadMixin):
        parts.append(_GuardedStream)
    repository.__class__ = type(f"Gated{inner.__name__}", (*reversed(parts), inner), {})
    repository._gate_install(inner_uri)
    return repository


def server_trees() -> FrozenTrees:
    """The frozen trees in the ledger of this server's registry.

    Raises:
        MlflowException: This process has no gated registry store (`registry_not_gated`), or it cannot be built
            (`ledger_unavailable`).
    """
    from registry_gate.mlflow_plugin.store import GatedStore

    store = None
    if DESTINATION_VARIABLE in os.environ:
        try:
            store = _registry_store()
        except Exception as err:
            # Only what kind of error: MLflow's text for an unusable store holds its URI, and that a password.
            _logger.exception("registry-gate cannot reach the registry store")
            raise refusal(
                f"nothing can be written: expected the registry store of this server, got {type(err).__name__}; "
                "see the server's log",
                "ledger_unavailable",
            ) from err
    if not isinstance(store, GatedStore):
        raise refusal(
            "nothing can be written: this artifact root is gated, but this process has no gated registry store that "
            "knows which versions were approved. Start the server with --registry-store-uri gated:<database uri>, "
            "and let clients write through it",
            "registry_not_gated",
        )
    return FrozenTrees(store.gate.ledger)


def _registry_store() -> Any:
    """The server's own store; in a job that a server started, the one that the job's environment names."""
    handlers = sys.modules.get("mlflow.server.handlers")
    if handlers is not None:
        return handlers._get_model_registry_store()
    from mlflow.tracking._model_registry.utils import _get_store, get_registry_uri

    return _get_store() if str(get_registry_uri()).startswith(PREFIX) else None


class _Guarded:
    """What every guarded repository does."""

    artifact_uri: str
    _offset: str | None
    _scheme: str

    def _gate_install(self, inner_uri: str) -> None:
        self._offset = below_root(inner_uri)
        self._scheme = "" if is_local(inner_uri) else inner_uri.partition(":")[0].lower()

    # -- what is refused ----------------------------------------------------------------------------------------------

    def _places(self, *paths: str | None) -> tuple[str, ...]:
        """The places that paths in this repository may mean.

        Raises:
            MlflowException: One is outside the root, or this repository's root is not the server's.
        """
        if self._offset is None:
            raise refusal(
                "nothing can be written: expected a gated artifact root that is the server's "
                "--artifacts-destination or lies below it, got another one",
                "root_not_served",
            )
        found: list[str] = []
        for path in paths:
            try:
                if path and path.startswith("/"):
                    raise OutsideRootError("expected a path relative to the artifact root, got an absolute one")
                found += spellings(posixpath.join(self._offset, path or ""))
                found += self._resolved(path or "")
            except OutsideRootError as err:
                raise MlflowException(f"Invalid path: {err}", error_code=INVALID_PARAMETER_VALUE) from err
        if any(place.split("/")[0] == RESERVED for place in found):
            raise refusal(f"expected a path outside {RESERVED}/, which is kept for asking the gate", "reserved_path")
        return tuple(dict.fromkeys(found))

    def _resolved(self, path: str) -> Sequence[str]:  # noqa: ARG002
        """Further places that the store itself would lead a path to."""
        return ()

    def _check(self, *paths: str | None, deletes: bool = False) -> None:
        places = self._places(*paths)
        with _refused():
            server_trees().check(places, also_below=deletes)

    @contextmanager
    def _writing(self, path: str | None, *, files: Sequence[str] = (), deletes: bool = False) -> Iterator[None]:
        """Keep promotions of a path out while the block writes it, or these files below it."""
        places, checked = self._places(path), self._places(*files)
        with _refused():
            trees = server_trees()
            begun = trees.begin_write(places, checked=checked, also_below=deletes)
        ended = threading.Event()
        threading.Thread(target=_extend, args=(trees, begun, ended), daemon=True, name="registry-gate-write").start()
        try:
            yield
        finally:
            ended.set()
            _end(trees, begun)

    # -- what writes --------------------------------------------------------------------------------------------------

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Guarded."""
        with self._writing(_join(artifact_path, os.path.basename(local_file))):
            super().log_artifact(local_file, artifact_path)  # type: ignore[misc]

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Guarded, as one write of all its files."""
        paths = [_join(artifact_path, relative) for relative in _files_of(local_dir)]
        with self._writing(artifact_path, files=paths):
            super().log_artifacts(local_dir, artifact_path)  # type: ignore[misc]

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Guarded, with everything below."""
        with self._writing(artifact_path, deletes=True):
            super().delete_artifacts(artifact_path)  # type: ignore[misc]

    def upload_archived_trace_data_bytes(self, data: bytes) -> None:
        """Guarded: some repositories write this file without `log_artifact`."""
        with self._writing("traces.pb"):
            super().upload_archived_trace_data_bytes(data)  # type: ignore[misc]


class _GuardedStream(_Guarded):
    """Repositories that take a stream and publish it in a way that we do not know."""

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Guarded."""
        with _drained(stream), self._writing(_join(artifact_path, os.path.basename(artifact_file_name))):
            super().log_artifact_from_stream(stream, artifact_file_name, artifact_path)  # type: ignore[misc]

    async def log_artifact_from_async_stream(
        self, chunks: AsyncIterable[bytes], artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Guarded."""
        writing = self._writing(_join(artifact_path, os.path.basename(artifact_file_name)))
        await _or_drain(chunks, writing.__enter__)
        try:
            await super().log_artifact_from_async_stream(chunks, artifact_file_name, artifact_path)  # type: ignore[misc]
        finally:
            await asyncio.to_thread(writing.__exit__, None, None, None)


class _GuardedLocal(_Guarded):
    """A directory of this machine: files are written beside and renamed, so the lock is held for the renaming only."""

    _artifact_dir: str
    _get_or_create_artifact_dir: Any
    _get_destination_artifact_path: Any

    def _gate_install(self, inner_uri: str) -> None:
        super()._gate_install(inner_uri)
        if not hasattr(LocalArtifactRepository, "_publish_staged_artifact"):
            raise MlflowException(
                "registry-gate knows no way to freeze local artifacts in this MLflow: expected a local repository that "
                "publishes files in one step. Install a supported version of MLflow"
            )
        self._real_root = os.path.realpath(local_file_uri_to_path(destination() or inner_uri))

    def _resolved(self, path: str) -> Sequence[str]:
        """Where symbolic links below the root lead to."""
        found: list[str] = []
        for one in {path, unquote(path)}:  # MLflow decodes once more where it deletes
            real = os.path.realpath(os.path.join(self._artifact_dir, os.path.normpath(one)))
            relative = os.path.relpath(real, self._real_root)
            if relative == ".." or relative.startswith("../"):
                raise OutsideRootError("expected a path inside the artifact root, got one that a link leads out of it")
            found += spellings(relative)
        return found

    @contextmanager
    def _exclusive(self, *paths: str | None, deletes: bool = False) -> Iterator[None]:
        places = self._places(*paths)
        # Errors of the block are MLflow's own and pass as they are.
        trees = _call(server_trees)
        held = trees.exclusive(places, also_below=deletes)
        _call(held.__enter__)
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    def _create_staging_artifact(
        self, artifact_file_name: str, artifact_path: str | None = None
    ) -> tuple[int, str, str]:
        """Stage in the repository's own directory: a staged file inside a model would be part of its form."""
        try:
            _, target = self._get_destination_artifact_path(artifact_file_name, artifact_path)
        except OSError as err:
            if err.errno not in _BAD_PATH:
                raise
            raise MlflowException(
                f"Invalid path: expected one that the artifact root can hold, got: {err.strerror}",
                error_code=INVALID_PARAMETER_VALUE,
            ) from err
        descriptor, staged = tempfile.mkstemp(dir=self._get_or_create_artifact_dir(), prefix=STAGING_PREFIX)
        return descriptor, staged, target

    def _publish_staged_artifact(
        self,
        temp_file_path: str,
        destination_file_path: str,
        finalize_temp_path: Callable[[str], None] | None = None,
    ) -> None:
        """Where every write ends: checked once more, while no promotion can come between."""
        if os.path.isdir(destination_file_path):
            raise MlflowException(
                "Invalid path: expected the name of a file, got that of a directory that exists",
                error_code=INVALID_PARAMETER_VALUE,
            )
        with self._exclusive(os.path.relpath(destination_file_path, self._artifact_dir)):
            super()._publish_staged_artifact(temp_file_path, destination_file_path, finalize_temp_path)  # type: ignore[misc]

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Guarded; refused before anything is read."""
        self._check(_join(artifact_path, os.path.basename(local_file)))
        super(_Guarded, self).log_artifact(local_file, artifact_path)  # type: ignore[misc]

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Guarded: refused as a whole when one file is, then published file by file."""
        files = list(_files_of(local_dir))
        if files:
            self._check(*(_join(artifact_path, relative) for relative in files))
        for relative in files:
            directory = _join(artifact_path, posixpath.dirname(relative)) or None
            self.log_artifact(os.path.join(local_dir, relative), directory)

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Guarded; refused before anything is written."""
        with _drained(stream):
            self._check(_join(artifact_path, os.path.basename(artifact_file_name)))
            super().log_artifact_from_stream(stream, artifact_file_name, artifact_path)  # type: ignore[misc]

    async def log_artifact_from_async_stream(
        self, chunks: AsyncIterable[bytes], artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Guarded; refused before anything is written."""
        await _or_drain(chunks, lambda: self._check(_join(artifact_path, os.path.basename(artifact_file_name))))
        await super().log_artifact_from_async_stream(chunks, artifact_file_name, artifact_path)  # type: ignore[misc]

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Guarded: put out of sight in one step under the lock, and removed at leisure."""
        self._check(artifact_path, deletes=True)
        path = os.path.normpath(os.path.join(self._artifact_dir, artifact_path or ""))
        trash = os.path.join(self._artifact_dir, f"{STAGING_PREFIX}{uuid.uuid4().hex}")
        with self._exclusive(artifact_path, deletes=True):
            if not os.path.isdir(path) or os.path.islink(path) or path == os.path.normpath(self._artifact_dir):
                super(_Guarded, self).delete_artifacts(artifact_path)  # type: ignore[misc]
                return
            try:
                os.rename(path, trash)
            except OSError:  # a mount point, or nothing to rename on this file system
                super(_Guarded, self).delete_artifacts(artifact_path)  # type: ignore[misc]
                return
        shutil.rmtree(trash)

    def upload_archived_trace_data_bytes(self, data: bytes) -> None:
        """Written by `log_artifact`."""
        super(_Guarded, self).upload_archived_trace_data_bytes(data)  # type: ignore[misc]


class _GuardedMultipart:
    """Multipart uploads: completing one is what changes the store."""

    _check: Any
    _writing: Any
    _scheme: str

    def create_multipart_upload(self, local_file: str, num_parts: int = 1, artifact_path: str | None = None) -> Any:
        """Guarded; refused altogether where what clients get could write the object itself."""
        self._check(_join(artifact_path, os.path.basename(local_file)))
        if self._scheme not in _PARTS_HARMLESS:
            raise _UnsupportedMultipartUploadException()
        return super().create_multipart_upload(local_file, num_parts, artifact_path)  # type: ignore[misc]

    def complete_multipart_upload(
        self, local_file: str, upload_id: str, parts: Any = None, artifact_path: str | None = None
    ) -> None:
        """Guarded: this is the write."""
        with self._writing(_join(artifact_path, os.path.basename(local_file))):
            super().complete_multipart_upload(local_file, upload_id, parts, artifact_path)  # type: ignore[misc]


class _GuardedPresigned:
    """Presigned uploads write past the server, at any time until they expire."""

    def create_presigned_upload_url(self, artifact_path: str, expiration: int = 900) -> Any:
        """Always refused."""
        raise refusal(
            f"expected an upload through the server, got a request for a presigned one of {artifact_path!r}: whoever "
            f"holds such an address can write for {expiration} s without asking, also when the file is approved "
            "meanwhile. Use log_artifact, or the multipart upload that MLflow's client chooses for large files",
            "presigned_upload",
        )


# -- how --------------------------------------------------------------------------------------------------------------


def _join(directory: str | None, name: str) -> str:
    return posixpath.join(directory, name) if directory else name


def _files_of(directory: str) -> Iterator[str]:
    """Relative paths of all files, with forward slashes."""
    for place, _, names in os.walk(directory):
        for name in names:
            yield os.path.relpath(os.path.join(place, name), directory).replace(os.sep, "/")


@contextmanager
def _refused() -> Iterator[None]:
    """What goes wrong while asking is a refusal, each with its code; never an error 500, never a write."""
    try:
        yield
    except FrozenError as err:
        answer = refusal(str(err), err.code)
        payload = {**answer.json_kwargs["registry_gate"], "operation": "write_artifact"}
        raise MlflowException(
            answer.message,
            error_code=PERMISSION_DENIED,
            registry_gate={**payload, "decision_ids": [err.decision], "location": err.location},
        ) from err
    except LedgerError as err:
        raise refusal(f"nothing can be written: {err}", "ledger_unavailable") from err
    except MlflowException:
        raise
    except Exception as err:
        _logger.exception("registry-gate could not check a write")
        raise refusal(
            f"nothing can be written: an unexpected {type(err).__name__} in the gate; see the server's log",
            "gate_error",
        ) from err


def _call(function: Callable[[], Any]) -> Any:
    with _refused():
        return function()


def _extend(trees: FrozenTrees, begun: Any, ended: threading.Event) -> None:
    while not ended.wait(WRITE_LEASE.total_seconds() / 10):
        try:
            trees.extend_write(begun)
        except LedgerError:
            # Nine more attempts until the lease ends; then `end_write` looks whether a promotion came between.
            _logger.warning("registry-gate could not extend a write under way", exc_info=True)


def _end(trees: FrozenTrees, begun: Any) -> None:
    try:
        trees.end_write(begun)
    except FrozenError:
        _logger.critical("registry-gate: the files of an approved version were written", exc_info=True)
        raise
    except LedgerError:
        # The bytes are written: saying otherwise would be wrong. The lease keeps promotions out until it ends.
        _logger.warning("registry-gate could not record the end of a write", exc_info=True)


@contextmanager
def _drained(stream: BinaryIO) -> Iterator[None]:
    """Read on when the block refuses, so that the client gets to read why."""
    try:
        yield
    except MlflowException:
        left = DRAINED_BYTES
        with suppress(Exception):  # the client is gone: nobody is left to be told
            while left > 0 and (chunk := stream.read(min(left, 1024 * 1024))):
                left -= len(chunk)
        raise


async def _or_drain(chunks: AsyncIterable[bytes], check: Callable[[], object]) -> None:
    """As `_drained`, around a check that runs in a thread."""
    try:
        await asyncio.to_thread(check)
    except MlflowException:
        left = DRAINED_BYTES
        with suppress(Exception):
            async for chunk in chunks:
                left -= len(chunk)
                if left <= 0:
                    break
        raise
