"""Keys: made once, private to their owner, refused with a reason."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lwd.errors import SnapshotError
from lwd.snapshot.keys import create_key, load_or_create_key, load_private_key, public_path


def public_key(path: Path) -> Ed25519PublicKey:
    """What lies beside the private key at this path."""
    key = serialization.load_pem_public_key(public_path(path).read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    return key


def test_made_once_and_read_again(tmp_path: Path):
    path = tmp_path / "keys" / "snapshot.pem"
    key = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for again in (load_private_key(path), load_or_create_key(path)):
        assert again.private_bytes_raw() == key.private_bytes_raw()
    public_key(path).verify(key.sign(b"x"), b"x")
    with pytest.raises(SnapshotError, match="not replaced"):
        create_key(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["snapshot.pem", "snapshot.pem.pub"]


def test_a_public_key_that_a_crash_left_out_is_made_good(tmp_path: Path):
    path = tmp_path / "snapshot.pem"
    key = create_key(path)
    public_path(path).unlink()
    load_or_create_key(path)
    public_key(path).verify(key.sign(b"x"), b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["snapshot.pem", "snapshot.pem.pub"]


def test_what_is_no_key_is_refused(tmp_path: Path):
    path = tmp_path / "key"
    create_key(path)
    path.chmod(0o644)
    with pytest.raises(SnapshotError, match=r"chmod 600"):
        load_private_key(path)
    path.chmod(0o600)
    with pytest.raises(SnapshotError, match="cannot be read"):
        load_private_key(tmp_path / "nothing")
    other = X25519PrivateKey.generate()
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem)
    with pytest.raises(SnapshotError, match="not an Ed25519 key"):
        load_private_key(path)
    path.write_bytes(b"garbage")
    with pytest.raises(SnapshotError, match="not an unencrypted private key"):
        load_private_key(path)
