"""Who may ask a policy server: tokens by name in a file of mode 0600, one `NAME TOKEN` per line. No JAX."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import secrets
from pathlib import Path

from lwd.errors import ConfigError
from lwd.fleet.credential import locked, write_private
from lwd.log.layout import NAME

log = logging.getLogger(__name__)

MIN_TOKEN = 16
_MAX_FILE_BYTES = 1 << 20


class TokenFile:
    """The tokens of a server; `refresh` reads the file again where it has changed, so a token can be taken away at once.

    Raises:
        ConfigError: the file is missing, readable by others, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._digests: dict[str, bytes] = {}
        self._read()

    def name_of(self, token: str) -> str | None:
        """Whose token it is. Takes the same time whichever it is and however much of it is right."""
        digest, found = _digest(token), None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def refresh(self) -> bool:
        """Read the file again if it has changed; whether it had. A file that cannot be read changes nothing."""
        try:
            return self._read()
        except ConfigError as error:
            log.error("token_file_unreadable path=%s cause=%r", self._path, str(error))
            return False

    def _read(self) -> bool:
        try:
            with self._path.open("rb") as file:
                facts, data = os.fstat(file.fileno()), file.read(_MAX_FILE_BYTES)
        except OSError as error:
            raise ConfigError(
                f"the token file {str(self._path)!r} cannot be read: {error.strerror or error}. Make one with "
                "lwd serve --token-file FILE --new-token NAME."
            ) from error
        if (facts.st_mtime_ns, facts.st_ino) == self._stamp:
            return False
        _check_private(self._path, facts.st_mode)
        digests = {name: _digest(token) for name, token in _lines(self._path, data)}
        self._stamp, self._digests = (facts.st_mtime_ns, facts.st_ino), digests
        return True


def new_token(path: Path, name: str) -> str:
    """Add a token for this name to the file, which is made if need be; the token. An old one of the name goes.

    Raises:
        ConfigError: a bad name, or the file cannot be read or written.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"token name {name!r:.80} must be 1 to 64 of the characters [A-Za-z0-9_-].")
    token = secrets.token_urlsafe(32)
    with locked(path.with_name(f".{path.name}.lock")):
        kept: list[tuple[str, str]] = []
        if path.exists():
            _check_private(path, path.stat().st_mode)
            kept = [(other, known) for other, known in _lines(path, path.read_bytes()) if other != name]
        text = "".join(f"{other} {value}\n" for other, value in [*kept, (name, token)])
        write_private(path, text.encode(), replace=True)
    return token


def load_token(path: Path) -> str:
    """A robot's own token: a file that holds it alone, or one line `NAME TOKEN`.

    Raises:
        ConfigError: the file is missing, readable by others, or holds none or several.
    """
    try:
        mode, data = path.stat().st_mode, path.read_bytes()[:_MAX_FILE_BYTES]
    except OSError as error:
        raise ConfigError(
            f"the token file {str(path)!r} cannot be read: {error.strerror or error}. Put the line there that "
            "lwd serve --new-token printed."
        ) from error
    _check_private(path, mode)
    words = data.decode(errors="replace").split()
    if len(words) not in (1, 2) or len(words[-1]) < MIN_TOKEN:
        raise ConfigError(
            f"the token file {str(path)!r} must hold one token of {MIN_TOKEN} or more characters."
        )
    return words[-1]


def _lines(path: Path, data: bytes) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for number, line in enumerate(data.decode(errors="replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not NAME.fullmatch(words[0]) or len(words[1]) < MIN_TOKEN:
            raise ConfigError(
                f"the token file {str(path)!r}, line {number}: expected NAME TOKEN with {MIN_TOKEN} or more characters."
            )
        if words[0] in dict(found):
            raise ConfigError(
                f"the token file {str(path)!r}, line {number}: {words[0]!r} has a token already."
            )
        found.append((words[0], words[1]))
    return found


def _check_private(path: Path, mode: int) -> None:
    if mode & 0o077:
        raise ConfigError(f"the token file {str(path)!r} can be read by other users; run: chmod 600 {path}")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
