"""The keys that sign and verify evidence and decisions: Ed25519, in PEM files.

Key material stays in here and in the signer that is handed out: no message, `repr` or pickle holds any of it. Which
public keys a registry trusts, under which names, is for the policy set.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from registry_gate.errors import ConfigError
from registry_gate.form import canonical_json

if TYPE_CHECKING:
    from securesystemslib.signer import Signer  # type: ignore[attr-defined]  # public, but not in its __all__

MAX_KEY_BYTES = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class EvidenceSigner:
    """A key that signs evidence. Neither `repr` nor pickling reveals the key.

    Args:
        key_id: Names the public key in envelopes; see `key_id`.
        public_pem: The public key that verifies what this signs.
        backend: What signs; a KMS or HSM signer of securesystemslib can take the place of the file's.
    """

    key_id: str
    public_pem: bytes
    backend: Signer = field(repr=False, compare=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("expected a signing key to stay in its process, got an attempt to serialise it")


@dataclass(frozen=True, kw_only=True)
class DecisionSigner:
    """The gate's key, which signs decisions. Neither `repr` nor pickling reveals it.

    `cryptography` alone: the MLflow server signs at every promotion, and securesystemslib is slow to import.

    Args:
        key_id: Names the public key in envelopes; see `key_id`.
        public_pem: The public key that verifies what this signs.
        private: The key itself.
    """

    key_id: str
    public_pem: bytes
    private: Ed25519PrivateKey = field(repr=False, compare=False)

    def sign(self, data: bytes) -> bytes:
        """The signature of these bytes, 64 bytes."""
        return self.private.sign(data)

    def __reduce__(self) -> NoReturn:
        raise TypeError("expected a signing key to stay in its process, got an attempt to serialise it")


class GateKey:
    """The gate's key in its file, read again whenever the file changes: one that appears later counts at once.

    Args:
        path: Private key, PKCS#8 PEM, mode 0600. Public keys lie beside it: `gate.pem` for `gate.key`, and
            `gate-*.pem` for keys that were replaced.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, ...] | None = None
        self._loaded: DecisionSigner | ConfigError | None = None

    def signer(self) -> DecisionSigner:
        """The key as the file holds it now.

        Raises:
            ConfigError: `gate_key_missing`, or `gate_key_unreadable` for everything else that is wrong with it.
        """
        seen = self._fingerprint()
        if self._loaded is None or seen is None or seen != self._seen:
            try:
                self._loaded = load_decision_signer(self.path)
            except ConfigError as err:
                self._loaded = _gate_key_error(self.path, err)
            self._seen = seen
        if isinstance(self._loaded, ConfigError):
            raise self._loaded
        return self._loaded

    def public_keys(self) -> dict[str, bytes]:
        """Public keys (PEM) that decisions may be signed with, by name: the present one and the replaced ones.

        Raises:
            ConfigError: A public key beside the private one is none, or there is no key at all.
        """
        keys = {"gate": self.signer().public_pem} if self._fingerprint() is not None else {}
        return _with_replaced(keys, self.path)

    def _fingerprint(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return (
            *(status.st_dev, status.st_ino, status.st_size, status.st_mode, status.st_uid),
            *(status.st_mtime_ns, status.st_ctime_ns),
        )


def gate_public_keys(signing_key: Path) -> dict[str, bytes]:
    """Public keys of the gate that lie beside where its private key is (or would be): for whoever only verifies.

    Args:
        signing_key: `[gate] signing_key`; opened only when no public key lies beside it.

    Raises:
        ConfigError: There is none, or a file that is no Ed25519 public key.
    """
    if not signing_key.with_suffix(".pem").is_file() and signing_key.is_file():
        return _with_replaced({"gate": load_decision_signer(signing_key).public_pem}, signing_key)
    return _with_replaced({}, signing_key)


def _with_replaced(keys: dict[str, bytes], signing_key: Path) -> dict[str, bytes]:
    present = signing_key.with_suffix(".pem")
    found = [] if keys or not present.is_file() else [present]
    identities = {key_id(pem) for pem in keys.values()}
    for path in [*found, *sorted(signing_key.parent.glob(f"{signing_key.stem}-*.pem"))]:
        pem = load_public_key(path)
        if key_id(pem) not in identities:
            keys[path.stem] = pem
            identities.add(key_id(pem))
    if not keys:
        raise ConfigError(
            f"expected the gate's public key at {present}, got none: copy it from the MLflow server's installation, "
            "or name it with --key",
            code="gate_key_missing",
        )
    return keys


def _gate_key_error(path: Path, err: ConfigError) -> ConfigError:
    if err.code == "key_missing":
        return ConfigError(
            f"expected the gate's signing key at {path}, got no such file: decisions cannot be signed. Make one with "
            f"`registry-gate init --gate-key {path}`, or set [gate] signing_key or REGISTRY_GATE_GATE_KEY",
            code="gate_key_missing",
        )
    return ConfigError(f"the gate's signing key cannot be used: {err}", code="gate_key_unreadable")


def key_id(public_pem: bytes) -> str:
    """The id under which a public key appears in envelopes.

    The same as securesystemslib's default: SHA-256 of the canonical JSON of key type, scheme and raw public key.

    Raises:
        ConfigError: No Ed25519 public key in PEM.
    """
    return _id_of(_public_key(public_pem, "the public key"))


def keys_by_id(signers: Mapping[str, bytes]) -> dict[str, tuple[str, Ed25519PublicKey]]:
    """Name and key of every trusted signer, by key id.

    Args:
        signers: Public key (PEM) by the signer's name.

    Raises:
        ConfigError: None at all, something that is no Ed25519 public key, or one key under two names.
    """
    if not signers:
        raise ConfigError("expected the public key of at least one signer, got none: name the worker's key")
    keys: dict[str, tuple[str, Ed25519PublicKey]] = {}
    for name, pem in sorted(signers.items()):
        key = _public_key(pem, f"the public key of signer {name!r}")
        identity = _id_of(key)
        if identity in keys:
            # One person under two names would count as two signers.
            raise ConfigError(
                f"expected every signer to have a key of their own, got key {identity} for "
                f"{keys[identity][0]!r} and {name!r}"
            )
        keys[identity] = (name, key)
    return keys


def load_public_key(path: Path) -> bytes:
    """Read the public key of a signer.

    Raises:
        ConfigError: Missing, unreadable, or no Ed25519 public key in PEM.
    """
    with _open_key(path, "public key") as file:
        pem = file.read(MAX_KEY_BYTES)
    _public_key(pem, f"the public key {path}")
    return pem


def load_signer(path: Path) -> EvidenceSigner:
    """Load the private key that signs evidence. It belongs on the worker, never on the MLflow server.

    Raises:
        ConfigError: Missing, unreadable, readable by others, encrypted, or no Ed25519 private key in PKCS#8 PEM.
    """
    private = _private_key(path)
    # Imported here for the reason given in `envelope.sign`.
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, but not in its __all__

    public = private.public_key()
    return EvidenceSigner(key_id=_id_of(public), public_pem=_pem_of(public), backend=CryptoSigner(private))


def load_decision_signer(path: Path) -> DecisionSigner:
    """Load the private key that signs decisions. It belongs to the MLflow server, never to the worker.

    Raises:
        ConfigError: As `load_signer`.
    """
    private = _private_key(path)
    public = private.public_key()
    return DecisionSigner(key_id=_id_of(public), public_pem=_pem_of(public), private=private)


_MAKERS = (
    "make one with `registry-gate init` (worker, server), `registry-gate policy key` (policies, calibrations) or "
    "`registry-gate waiver key` (people)"
)


def _private_key(path: Path) -> Ed25519PrivateKey:
    with _open_key(path, "signing key") as file:
        # Of the opened file, so that it cannot be exchanged between the check and the reading.
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        pem = file.read(MAX_KEY_BYTES)
    # What holds no secret is the wrong file, whoever may read it: to close it would help nobody.
    if b"PRIVATE KEY" not in pem:
        raise ConfigError(
            f"expected an Ed25519 private key (PKCS#8, PEM) in {path}, got {_instead(pem, path)}", code="key_malformed"
        )
    if mode & 0o077:
        raise ConfigError(
            f"expected signing key {path} to be readable by its owner only (mode 0600), got mode {mode:04o}: "
            f"run `chmod 600 {shlex.quote(str(path))}`, and make a new key if others may have read it",
            code="key_permissions",
        )
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # `from None`: what the parser says about the bytes of a private key is not for logs.
        if b"ENCRYPTED" in pem:
            got = "an encrypted key: registry-gate asks for no passphrase, so store it unencrypted with mode 0600"
        elif b"OPENSSH" in pem:
            got = f"a key in the format of OpenSSH: {_MAKERS}"
        else:
            got = f"one that is damaged: copy it again from where it is kept, or {_MAKERS}"
        raise ConfigError(
            f"expected an Ed25519 private key (PKCS#8, PEM) in {path}, got {got}", code="key_malformed"
        ) from None
    if not isinstance(private, Ed25519PrivateKey):
        kind = type(private).__name__.removesuffix("PrivateKey")
        raise ConfigError(
            f"expected an Ed25519 private key in {path}, got one of type {kind}: {_MAKERS}",
            code="key_malformed",
        )
    return private


def _instead(pem: bytes, path: Path) -> str:
    """What lies where a private key should."""
    if not pem.strip():
        return f"an empty file: {_MAKERS}"
    if b"PUBLIC KEY" not in pem:
        return f"something that is no key: {_MAKERS}"
    pair = path.with_suffix(".key")
    where = f", which is likely {pair}" if pair != path and pair.is_file() else ""
    return f"a public key: give the private key that was made with it{where}"


def generate_key(private_path: Path, public_path: Path) -> str:
    """Make an Ed25519 key pair and return its key id. Existing files are never overwritten.

    Args:
        private_path: PKCS#8 PEM, mode 0600.
        public_path: SubjectPublicKeyInfo PEM, mode 0644; this is what the gate and auditors get.

    Raises:
        ConfigError: A file exists or cannot be written; then neither was left behind by this call.
    """
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    _write_new(private_path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    try:
        _write_new(public_path, _pem_of(public), 0o644)
    except ConfigError:
        private_path.unlink()
        raise
    return _id_of(public)


def _open_key(path: Path, what: str) -> BinaryIO:
    try:
        file = path.open("rb")
    except FileNotFoundError as err:
        raise ConfigError(
            f"expected a {what} at {path}, got no such file: {_MAKERS}; or correct the path",
            code="key_missing",
        ) from err
    except OSError as err:
        raise ConfigError(
            f"expected a readable {what} at {path}, got: {err.strerror}: check its owner and kind",
            code="key_unreadable",
        ) from err
    return file


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as err:
        raise ConfigError(
            f"expected no file at {path}, got one: a key is never overwritten, because evidence signed with it "
            "would no longer verify; move it away or choose another path",
            code="key_exists",
        ) from err
    except OSError as err:
        raise ConfigError(f"expected to write a key to {path}, got: {err.strerror}", code="key_unwritable") from err
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask is
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as err:
        path.unlink()
        hint = ": free some space" if err.errno == errno.ENOSPC else ""
        raise ConfigError(
            f"expected to write a key to {path}, got: {err.strerror}{hint}; nothing was kept", code="key_unwritable"
        ) from err


def _public_key(pem: bytes, what: str) -> Ed25519PublicKey:
    if b"PRIVATE KEY" in pem:
        raise ConfigError(
            f"expected {what} to be a public key, got a private key: it does not belong here; treat it as exposed",
            code="key_malformed",
        )
    try:
        key = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:
        raise ConfigError(
            f"expected {what} to be an Ed25519 public key in PEM, got something that is no key", code="key_malformed"
        ) from err
    if not isinstance(key, Ed25519PublicKey):
        kind = type(key).__name__.removesuffix("PublicKey")
        raise ConfigError(f"expected {what} to be of type Ed25519, got {kind}", code="key_malformed")
    return key


def _pem_of(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _id_of(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    return hashlib.sha256(
        canonical_json({"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": raw}})
    ).hexdigest()
