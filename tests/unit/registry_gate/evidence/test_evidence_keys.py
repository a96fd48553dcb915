"""Key files: what is wrong is named with what to do, and no key material shows anywhere."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from registry_gate.errors import ConfigError
from registry_gate.evidence.keys import generate_key, key_id, load_public_key, load_signer


@contextmanager
def without_root() -> Iterator[None]:
    """Root reads everything, so that an unreadable file needs another user."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def private_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def pkcs8(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def test_generated_pair_is_standard_pem_with_safe_modes(tmp_path: Path) -> None:
    private, public = tmp_path / "worker.key", tmp_path / "worker.pub"
    before = os.umask(0)
    try:
        identity = generate_key(private, public)
    finally:
        os.umask(before)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    assert public.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    signer = load_signer(private)
    assert signer.key_id == identity == key_id(load_public_key(public))
    assert signer.public_pem == public.read_bytes()


def test_generating_never_overwrites_the_private_key(tmp_path: Path) -> None:
    private = private_file(tmp_path / "worker.key", b"precious")
    with pytest.raises(ConfigError, match=r"expected no file at .*worker\.key, got one: a key is never overwritten"):
        generate_key(private, tmp_path / "worker.pub")
    assert private.read_bytes() == b"precious"
    assert not (tmp_path / "worker.pub").exists()


def test_generating_never_overwrites_the_public_key_and_leaves_no_half_pair(tmp_path: Path) -> None:
    public = tmp_path / "worker.pub"
    public.write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"expected no file at .*worker\.pub, got one"):
        generate_key(tmp_path / "worker.key", public)
    assert public.read_bytes() == b"precious"
    assert not (tmp_path / "worker.key").exists()


def test_generating_does_not_write_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (tmp_path / "worker.key").symlink_to(target)
    with pytest.raises(ConfigError, match="expected no file at"):
        generate_key(tmp_path / "worker.key", tmp_path / "worker.pub")
    assert not target.exists()


def test_generating_into_a_missing_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected to write a key to .*, got: No such file or directory"):
        generate_key(tmp_path / "none" / "worker.key", tmp_path / "worker.pub")


def test_generating_on_a_full_disk_keeps_nothing(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))

    code = (
        "import sys; from pathlib import Path; from registry_gate.evidence.keys import generate_key\n"
        "generate_key(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-B", "-c", code, str(tmp_path / "worker.key"), str(tmp_path / "worker.pub")]
    done = subprocess.run(arguments, preexec_fn=small_files, capture_output=True, text=True)
    assert "got: File too large; nothing was kept" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_missing_key_file(tmp_path: Path) -> None:
    message = r"expected a signing key at .*none\.key, got no such file: make one with `registry-gate init`"
    with pytest.raises(ConfigError, match=message):
        load_signer(tmp_path / "none.key")
    with pytest.raises(ConfigError, match=r"expected a public key at .*none\.pub, got no such file"):
        load_public_key(tmp_path / "none.pub")


def test_unreadable_key_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.key"
    generate_key(path, tmp_path / "worker.pub")
    path.chmod(0o000)
    with without_root(), pytest.raises(ConfigError, match=r"readable signing key at .*: Permission denied"):
        load_signer(path)


def test_directory_instead_of_a_key_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a readable signing key at .*, got: Is a directory"):
        load_signer(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666, 0o610, 0o777])
def test_key_that_others_may_reach_is_refused_with_the_command_that_fixes_it(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "worker.key"
    generate_key(path, tmp_path / "worker.pub")
    path.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        load_signer(path)
    assert f"to be readable by its owner only (mode 0600), got mode {mode:04o}: run `chmod 600 {path}`" in str(
        caught.value
    )


def test_key_readable_by_its_owner_only_is_accepted_read_only(tmp_path: Path) -> None:
    path = tmp_path / "worker.key"
    generate_key(path, tmp_path / "worker.pub")
    path.chmod(0o400)
    assert load_signer(path).public_pem == (tmp_path / "worker.pub").read_bytes()


def test_private_key_of_another_type_is_refused_by_type(tmp_path: Path) -> None:
    for key, kind in (
        (ec.generate_private_key(ec.SECP256R1()), "E"),  # "EC" or "EllipticCurve", by version of the library
        (rsa.generate_private_key(65537, 2048), "RSA"),
    ):
        path = private_file(tmp_path / "worker.key", pkcs8(key))
        with pytest.raises(ConfigError, match=f"expected an Ed25519 private key in .*, got one of type {kind}"):
            load_signer(path)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"", "got an empty file: make one with `registry-gate init`"),
        (b"garbage SECRET", "got something that is no key: make one with `registry-gate init`"),
        (
            b"-----BEGIN PRIVATE KEY-----\nU0VDUkVUU0VDUkVU\n-----END PRIVATE KEY-----\n",
            "got one that is damaged: copy it again",
        ),
        (
            b"-----BEGIN OPENSSH PRIVATE KEY-----\nU0VDUkVU\n-----END OPENSSH PRIVATE KEY-----\n",
            "got a key in the format of OpenSSH: make one with",
        ),
    ],
)
def test_garbage_instead_of_a_private_key(tmp_path: Path, data: bytes, got: str) -> None:
    with pytest.raises(ConfigError, match=got) as caught:
        load_signer(private_file(tmp_path / "worker.key", data))
    assert "SECRET" not in str(caught.value)
    assert "U0VDUkVU" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_public_key_given_as_private_key(tmp_path: Path, mode: int) -> None:
    generate_key(tmp_path / "worker.key", tmp_path / "worker.pub")
    (tmp_path / "worker.pub").chmod(mode)
    # To close it to others would not make it a private one.
    said = r"got a public key: give the private key that was made with it, which is likely .*/worker\.key$"
    with pytest.raises(ConfigError, match=said):
        load_signer(tmp_path / "worker.pub")
    (tmp_path / "worker.key").unlink()
    with pytest.raises(ConfigError, match=r"the private key that was made with it$"):
        load_signer(tmp_path / "worker.pub")


def test_a_file_that_is_no_key_is_not_called_too_open(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing secret", encoding="utf-8")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="got something that is no key"):
        load_signer(path)


def test_encrypted_private_key(tmp_path: Path) -> None:
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")
    )
    with pytest.raises(ConfigError, match="got an encrypted key: registry-gate asks for no passphrase"):
        load_signer(private_file(tmp_path / "worker.key", pem))


def test_private_key_given_as_public_key(tmp_path: Path) -> None:
    generate_key(tmp_path / "worker.key", tmp_path / "worker.pub")
    with pytest.raises(ConfigError, match="got a private key: it does not belong here; treat it as exposed"):
        load_public_key(tmp_path / "worker.key")


def test_public_key_of_another_type_or_garbage(tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = tmp_path / "worker.pub"
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match=r"expected the public key .*worker\.pub to be of type Ed25519, got E"):
        load_public_key(path)
    path.write_bytes(b"garbage")
    with pytest.raises(
        ConfigError, match=r"worker\.pub to be an Ed25519 public key in PEM, got something that is no key"
    ):
        load_public_key(path)


def test_no_representation_shows_key_material(tmp_path: Path) -> None:
    path = tmp_path / "worker.key"
    generate_key(path, tmp_path / "worker.pub")
    signer = load_signer(path)
    secret = path.read_text().splitlines()[1]
    for shown in (repr(signer), str(signer), f"{signer}", repr([signer]), repr(vars(signer))):
        assert secret not in shown
        assert secret[-20:] not in shown
    assert signer.key_id in repr(signer)


def test_verifying_does_not_import_the_signing_library() -> None:
    """The gate verifies at every promotion and the CLI must start fast; securesystemslib takes half a second."""
    code = (
        "import sys, registry_gate.evidence.envelope, registry_gate.evidence.files\n"
        "print([name for name in ('securesystemslib', 'boto3', 'mlflow', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
