"""A policy set in S3, published whole: files under the sha256 of their bytes, and one index that names them.

    PREFIX/index.json          {"format": ..., "files": {NAME: {"sha256": ..., "version": ...}}}; written last
    PREFIX/files/SHA256        the bytes of one file; never changed

A reader takes the index, then exactly the files that it names. A set that is being uploaded is not there before its
index is, and the files of the set before stay, so there is never a mixture. In a bucket with versions each file is read
by its version id too. Credentials, region and endpoint are boto3's own.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, ValidationError

from registry_gate.documents import MAX_DOCUMENT_BYTES, Strict
from registry_gate.errors import PolicyError
from registry_gate.form import canonical_json
from registry_gate.policy.files import MAX_FILES, PolicyFiles, UnreachableError

INDEX = "index.json"
INDEX_FORMAT: Literal["registry-gate/policy-set-index@1"] = "registry-gate/policy-set-index@1"
_MAX_INDEX_BYTES = 1_000_000
_AT_ONCE = 8
_CONNECT_S, _READ_S = 2, 3
_GONE = ("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "404")
T = TypeVar("T")


class _File(Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    version: str | None = None


class _Index(Strict):
    format: Literal["registry-gate/policy-set-index@1"]
    files: dict[str, _File] = Field(max_length=MAX_FILES)


@dataclass(frozen=True, kw_only=True)
class S3Place:
    """A prefix of a bucket.

    Args:
        address: As it was given.
        bucket: The bucket.
        prefix: What the keys begin with, without a slash at its end; may be empty.
    """

    address: str
    bucket: str
    prefix: str
    _clients: list[Any] = field(default_factory=list, repr=False, compare=False)
    _indexes: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @classmethod
    def parse(cls, address: str) -> S3Place:
        """Take `s3://BUCKET/PREFIX` apart.

        Raises:
            PolicyError: It is none.
        """
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
            raise PolicyError(f"expected s3://BUCKET/PREFIX, got {address!r}")
        return cls(address=address, bucket=bucket, prefix=prefix)

    def revision(self) -> str:
        """The version id of the index, or its sha256 where the bucket keeps no versions. See `Place.revision`."""
        hint = f"; `registry-gate policy publish DIRECTORY {self.address}` writes it"
        answer = self._answer(lambda client: client.get_object(Bucket=self.bucket, Key=self._key(INDEX)), INDEX, hint)
        data = answer[0]
        version = answer[1]
        revision = f"version {version}" if version else f"index sha256:{hashlib.sha256(data).hexdigest()}"
        with self._lock:
            # Kept until the files are read: a bucket without versions may hold another index by then.
            self._indexes.clear()
            self._indexes[revision] = data
        return revision

    def read(self, revision: str) -> PolicyFiles:
        """The files that the index of a revision names. See `Place.read`."""
        with self._lock:
            data = self._indexes[revision]
        try:
            index = _Index.model_validate_json(data)
        except (ValidationError, UnicodeDecodeError) as err:
            raise PolicyError(
                f"{self.address}/{INDEX}: expected an index as `registry-gate policy publish` writes it, got: "
                f"{str(err).splitlines()[0]}"
            ) from err
        for name in index.files:
            parts = name.split("/")
            if any(part in ("", ".", "..") for part in parts) or "\\" in name or not name.isprintable():
                raise PolicyError(f"{self.address}/{INDEX}: expected names of files below the policy set, got {name!r}")
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            contents = dict(zip(index.files, pool.map(self._file, index.files.items()), strict=True))
        kept = {n: data for n, data in contents.items() if not any(part.startswith(".") for part in n.split("/"))}
        return PolicyFiles(
            place=self.address, revision=revision, contents=MappingProxyType(kept), refused=MappingProxyType({})
        )

    def publish(self, files: PolicyFiles) -> str:
        """Write a set: its files, then its index. Returns the revision.

        Raises:
            PolicyError: A file was not read, or the bucket is not there.
            UnreachableError: S3 does not answer or does not allow it; the set before stays in force.
        """
        for name, why in files.refused.items():
            raise PolicyError(f"{files.shown(name)}: {why}: nothing was published")
        written: dict[str, Any] = {}
        for name, data in files.contents.items():
            sha256 = hashlib.sha256(data).hexdigest()
            version = self._put(f"files/{sha256}", data)
            written[name] = {"sha256": sha256} | ({"version": version} if version else {})
        index = canonical_json({"format": INDEX_FORMAT, "files": written})
        self._put(INDEX, index)
        return self.revision()

    def _put(self, name: str, data: bytes) -> str | None:
        def put(client: Any) -> str | None:
            return _version(client.put_object(Bucket=self.bucket, Key=self._key(name), Body=data))

        return self._call(put, name, "")

    def _file(self, item: tuple[str, _File]) -> bytes:
        name, wanted = item
        which = {"VersionId": wanted.version} if wanted.version else {}
        key = self._key(f"files/{wanted.sha256}")
        data, _ = self._answer(
            lambda client: client.get_object(Bucket=self.bucket, Key=key, **which), name, ": publish the set again"
        )
        got = hashlib.sha256(data).hexdigest()
        if got != wanted.sha256:
            raise PolicyError(
                f"{self.address}/{name}: expected the bytes with sha256 {wanted.sha256} that the index names, got "
                f"{got}: somebody wrote over them; publish the set again"
            )
        return data

    def _answer(self, ask: Callable[[Any], Any], name: str, hint: str) -> tuple[bytes, str | None]:
        def whole(client: Any) -> tuple[bytes, str | None]:
            answer = ask(client)
            most = _MAX_INDEX_BYTES if name == INDEX else MAX_DOCUMENT_BYTES
            if answer["ContentLength"] > most:
                raise PolicyError(
                    f"{self.address}/{name}: expected at most {most} bytes, got {answer['ContentLength']}"
                )
            return answer["Body"].read(), _version(answer)

        return self._call(whole, name, hint)

    def _call(self, ask: Callable[[Any], T], name: str, hint: str) -> T:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            return ask(self._client())
        except ClientError as err:
            code = str(err.response.get("Error", {}).get("Code"))
            if code in _GONE:
                raise PolicyError(f"{self.address}/{name}: expected this object, got none ({code}){hint}") from err
            raise UnreachableError(f"{self.address}/{name}: expected S3 to answer, got: {err}") from err
        except (BotoCoreError, HTTPError, OSError) as err:
            raise UnreachableError(f"{self.address}/{name}: expected S3 to answer, got: {err}") from err

    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        with self._lock:
            if not self._clients:
                limits = Config(
                    connect_timeout=_CONNECT_S,
                    read_timeout=_READ_S,
                    retries={"total_max_attempts": 1},
                    max_pool_connections=_AT_ONCE,
                )
                self._clients.append(boto3.session.Session().client("s3", config=limits))
            return self._clients[0]

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def _version(answer: Mapping[str, Any]) -> str | None:
    """The version id; none where the bucket keeps no versions, which S3 calls `null` once it did."""
    version = answer.get("VersionId")
    return None if version in (None, "null") else str(version)
