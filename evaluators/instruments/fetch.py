"""Fetch a probe file from the Hugging Face hub or from S3, once.

`hf://datasets/OWNER/NAME@REVISION/PATH` goes through `huggingface_hub` with its own cache, settings (`HF_ENDPOINT`,
`HF_TOKEN`, `HF_HUB_OFFLINE`) and errors; `s3://BUCKET/KEY` through boto3 with its credentials and settings
(`AWS_ENDPOINT_URL`). What was fetched under a sha256 is kept under it and never fetched again. What the bytes must be
is for the caller to check.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from registry_gate.errors import AssessmentError

_HF = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?")
_S3 = re.compile(r"s3://(?P<bucket>[^/]+)/?(?P<key>.*)")


def is_remote(place: str) -> bool:
    """Whether a place is fetched rather than opened."""
    return place.startswith(("hf://", "s3://"))


def fetch(uri: str, sha256: str | None = None) -> bytes:
    """The bytes of one remote file.

    Args:
        uri: Where it is.
        sha256: If something of this digest was kept before, that is returned without asking anybody.

    Raises:
        AssessmentError: The address is none, there is no such file, or it cannot be reached.
    """
    kept = None if sha256 is None else _kept_files() / sha256
    if kept is not None:
        with contextlib.suppress(OSError):
            data = kept.read_bytes()
            if hashlib.sha256(data).hexdigest() == sha256:
                return data
    data = _from_hub(uri) if uri.startswith("hf://") else _from_s3(uri)
    if kept is not None and hashlib.sha256(data).hexdigest() == sha256:
        _keep(kept, data)
    return data


def listed(uri: str) -> list[tuple[str, str]]:
    """The files below a remote folder, as (path below it, address), sorted.

    Raises:
        AssessmentError: The address is none or cannot be reached.
    """
    base = uri.rstrip("/")
    if uri.startswith("hf://"):
        names, inside = _hub_names(uri)
    else:
        names, inside = _s3_names(uri)
    below = [name[len(inside) :].lstrip("/") for name in names if name.startswith(inside)]
    return sorted((name, f"{base}/{name}") for name in below if name)


def _hub_parts(uri: str) -> re.Match[str]:
    match = _HF.fullmatch(uri)
    if match is None:
        raise AssessmentError(
            f"expected hf://datasets/OWNER/NAME@REVISION/PATH, got {uri!r}: only data sets are read",
            code="probes_missing",
        )
    return match


def _from_hub(uri: str) -> bytes:
    # Imported where it is used: batteries of local files need no hub client.
    from huggingface_hub import hf_hub_download

    match = _hub_parts(uri)
    if not match["path"]:
        raise AssessmentError(f"expected the path of a file after the data set, got {uri!r}", code="probes_missing")
    try:
        path = hf_hub_download(match["repo"], match["path"], repo_type="dataset", revision=match["revision"])
        return Path(path).read_bytes()
    except Exception as err:  # the client raises errors of several libraries
        raise _unreachable(uri, err) from err


def _hub_names(uri: str) -> tuple[list[str], str]:
    from huggingface_hub import HfApi

    match = _hub_parts(uri)
    try:
        names = HfApi().list_repo_files(match["repo"], repo_type="dataset", revision=match["revision"])
    except Exception as err:
        raise _unreachable(uri, err) from err
    return names, (match["path"] or "").rstrip("/")


def _s3_parts(uri: str) -> re.Match[str]:
    match = _S3.fullmatch(uri)
    if match is None:
        raise AssessmentError(f"expected s3://BUCKET/KEY, got {uri!r}", code="probes_missing")
    return match


def _s3_client() -> Any:
    import boto3

    return boto3.client("s3")


def _from_s3(uri: str) -> bytes:
    match = _s3_parts(uri)
    try:
        return bytes(_s3_client().get_object(Bucket=match["bucket"], Key=match["key"])["Body"].read())
    except Exception as err:  # botocore raises errors of its own and of its transport
        raise _unreachable(uri, err) from err


def _s3_names(uri: str) -> tuple[list[str], str]:
    match = _s3_parts(uri)
    # With the slash, so that `s3://b/set` does not list `s3://b/settings`.
    prefix = match["key"].rstrip("/") + "/" if match["key"] else ""
    try:
        pages = _s3_client().get_paginator("list_objects_v2").paginate(Bucket=match["bucket"], Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])], prefix
    except Exception as err:
        raise _unreachable(uri, err) from err


def _unreachable(uri: str, err: Exception) -> AssessmentError:
    first = (str(err).strip().splitlines() or [""])[0][:200]
    return AssessmentError(
        f"expected to fetch {uri}, got {type(err).__name__}: {first}. Check the address, the credentials and the "
        "network, or fetch it by hand and give its path.",
        code="probes_missing",
    )


def _kept_files() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "registry-gate" / "probes"


def _keep(path: Path, data: bytes) -> None:
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
