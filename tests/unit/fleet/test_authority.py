"""Who is let in, on paper: credentials, the authority's books and the broker's configuration."""

import base64
import dataclasses
import json
import os
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from servers import NATS_SERVER

from lwd.errors import ConfigError, UnknownNameError
from lwd.fleet import broker
from lwd.fleet.authority import Authority, identity_uri
from lwd.fleet.credential import ROLES, load_credential
from lwd.log.nats_client import TlsIdentity

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "fleet", "kitchen", ["tls://127.0.0.1:4222"], KEY.public_key())


def test_a_credential_is_one_private_file_with_all_that_is_needed(authority: Authority, tmp_path: Path):
    credential = authority.invite("robot-1")
    path = tmp_path / "robot-1.json"
    credential.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_credential(path) == credential
    assert credential.snapshot_public_key() == KEY.public_key()
    assert (credential.fleet, credential.servers) == ("kitchen", ("tls://127.0.0.1:4222",))
    assert 364 * 86400 < credential.expires_at - time.time() < 366 * 86400
    assert credential.key not in repr(credential)
    assert "PRIVATE" not in repr(credential.identity())
    context = credential.identity().context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    with pytest.raises(ConfigError, match="exists"):
        credential.save(path)
    for name in ("ca.key", "server.key", "members.json", "fleet.json"):
        assert (authority.folder / name).stat().st_mode & 0o077 == 0


def test_a_damaged_or_open_credential_is_refused(authority: Authority, tmp_path: Path):
    path = tmp_path / "c.json"
    credential = authority.invite("robot-1")
    with pytest.raises(ConfigError, match="invite"):
        load_credential(path)
    credential.save(path)
    good = json.loads(path.read_text())
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_credential(path)
    path.chmod(0o600)
    for bad in ("", "[]", "[" * 100_000, "x" * 100_000, '{"version": 2}', '{"version": 1}'):
        path.write_text(bad)
        with pytest.raises(ConfigError):
            load_credential(path)
    for change in (
        {"role": "king"},
        {"servers": "x"},
        {"servers": [3]},
        {"expires_at": "soon"},
        {"key": None},
        {"ca": "\u00b4"},
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(ConfigError, match="damaged"):
            load_credential(path)
    # A public key whose algorithm is one that nobody has: its object identifier's last byte is changed (found by fuzzing).
    der = base64.b64decode("".join(credential.snapshot_key.strip().splitlines()[1:-1]))
    strange = base64.b64encode(der.replace(b"\x2b\x65\x70", b"\x2b\x65\x56")).decode()
    unknown = f"-----BEGIN PUBLIC KEY-----\n{strange}\n-----END PUBLIC KEY-----\n"
    with pytest.raises(ConfigError, match="known here"):
        dataclasses.replace(credential, snapshot_key=unknown).snapshot_public_key()
    with pytest.raises(ConfigError, match="snapshot key"):
        dataclasses.replace(credential, snapshot_key="x").snapshot_public_key()
    with pytest.raises(ConfigError, match="snapshot key"):
        dataclasses.replace(credential, snapshot_key=_public_pem(credential.ca)).snapshot_public_key()
    with pytest.raises(ConfigError, match="certificates"):
        TlsIdentity(ca="x").context()
    with pytest.raises(ConfigError, match="certificates"):
        dataclasses.replace(credential.identity(), key="x").context()


def _public_pem(certificate_pem: str) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key = x509.load_pem_x509_certificate(certificate_pem.encode()).public_key()
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def test_names_are_held_by_one_credential_at_a_time(authority: Authority):
    first = authority.invite("robot-1")
    for role in ("robot", "learner"):
        with pytest.raises(ConfigError, match="valid credential"):
            authority.invite("robot-1", role)
    second = authority.invite("robot-1", replace_old=True)
    assert [member.id for member in authority.valid_members()] == [second.id]
    with pytest.raises(ConfigError, match="valid credential"):
        authority.invite("robot-1", "learner", replace_old=True)
    assert authority.revoke("robot-1") == 1
    assert authority.revoke("robot-1") == 0
    assert authority.valid_members() == []
    assert {member.id for member in authority.members()} == {first.id, second.id}
    assert Authority(authority.folder).members() == authority.members()
    with pytest.raises(UnknownNameError, match="robot-1"):
        authority.revoke("robot-2")
    with pytest.raises(UnknownNameError, match="role"):
        authority.invite("x", "king")
    with pytest.raises(ConfigError, match="service"):
        authority.invite("coordinator")
    for bad in ("", "a.b", "a b", "*", ">", "a/b", "ä", "x" * 65):
        with pytest.raises(ConfigError, match="characters"):
            authority.invite(bad)


def test_credentials_expire(tmp_path: Path):
    now = [1_800_000_000.0]
    authority = Authority.create(
        tmp_path, "kitchen", ["tls://localhost:1"], KEY.public_key(), clock=lambda: now[0]
    )
    authority.invite("robot-1", days=2.0)
    now[0] += 86400
    assert len(authority.valid_members()) == 1
    now[0] += 86401
    assert authority.valid_members() == []
    authority.invite("robot-1")


def test_an_authority_is_never_replaced(authority: Authority, tmp_path: Path):
    before = (authority.folder / "ca.key").read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        Authority.create(authority.folder, "kitchen", ["tls://x:1"], KEY.public_key())
    assert (authority.folder / "ca.key").read_bytes() == before
    with pytest.raises(ConfigError, match="no fleet authority"):
        Authority(tmp_path / "nowhere")
    for servers in ([], ["nats://x:1"], ["tls://"]):
        with pytest.raises(ConfigError, match="tls://"):
            Authority.create(tmp_path / "other", "kitchen", servers, KEY.public_key())
    (authority.folder / "ca.key").write_text("x")
    with pytest.raises(ConfigError, match="cannot be read"):
        Authority(authority.folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fleet.json", "[1]"),
        ("fleet.json", '{"version": 1}'),
        ("members.json", '[{"nom": 1}]'),
        ("members.json", '{"a": 1}'),
        ("members.json", "7"),
    ],
)
def test_a_damaged_book_is_named(authority: Authority, name: str, text: str):
    (authority.folder / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        Authority(authority.folder).members()


def test_invitations_from_several_threads_are_all_kept(authority: Authority):
    threads = [
        threading.Thread(target=lambda i=i: Authority(authority.folder).invite(f"robot-{i}"))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(member.name for member in authority.members()) == [f"robot-{i}" for i in range(8)]


def test_the_configuration_lists_who_is_valid_and_the_server_accepts_it(authority: Authority, tmp_path: Path):
    config = broker.BrokerConfig(host="127.0.0.1", store=tmp_path / "store", pidfile=tmp_path / "pid")
    for role in ROLES:
        authority.invite("robot-1" if role == "robot" else role, role)
    authority.invite("gone")
    authority.revoke("gone")
    path = tmp_path / "nats.conf"
    broker.write_configuration(authority, config, path)
    assert path.stat().st_mode & 0o777 == 0o600
    users = {
        user["user"]: user["permissions"] for user in json.loads(path.read_text())["authorization"]["users"]
    }
    assert len(users) == len(ROLES)
    assert set(users) == {identity_uri("kitchen", member) for member in authority.valid_members()}
    robot = next(users[uri] for uri in users if ":robot-1:" in uri)
    assert robot == {
        "publish": {
            "allow": [
                "episodes.robot-1.*",
                "status.robot-1",
                "calls.robot-1.>",
                "$JS.API.DIRECT.GET.SNAPSHOT.snapshot.newest",
                "$JS.API.DIRECT.GET.RELEASE.release.*",
            ]
        },
        "subscribe": {"allow": ["_INBOX.robot-1.>", "snapshot.newest", "release.*"]},
    }
    checked = subprocess.run([NATS_SERVER, "-t", "-c", path], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stderr


def test_reloading_nobody_says_what_to_do(tmp_path: Path):
    with pytest.raises(ConfigError, match="restarting"):
        broker.reload(tmp_path / "pid")
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "pid").write_text(f"{gone.pid}\n")
    with pytest.raises(ConfigError, match="restarting"):
        broker.reload(tmp_path / "pid")
    assert os.getpid() != gone.pid
