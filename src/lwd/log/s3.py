"""Where an S3 bucket is, who may use it, and signed URLs for a single request (AWS Signature Version 4).

`obstore.sign` signs the path only: whoever holds such a URL may overwrite an object, with anything of any size. Here
the request's headers are signed with it, so the server refuses another length, other bytes or a missing
`If-None-Match`.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlsplit

from lwd.errors import ConfigError

MAX_EXPIRY_S = 7 * 86400
DEFAULT_REGION = "us-east-1"

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """A bucket key. The secrets are never shown."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    @staticmethod
    def from_environment(environment: Mapping[str, str] | None = None) -> Credentials | None:
        """The key in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, None without them."""
        found = os.environ if environment is None else environment
        access, secret = found.get("AWS_ACCESS_KEY_ID"), found.get("AWS_SECRET_ACCESS_KEY")
        if not access or not secret:
            return None
        return Credentials(
            access_key=access, secret_key=secret, session_token=found.get("AWS_SESSION_TOKEN") or None
        )


@dataclass(frozen=True, kw_only=True)
class S3Location:
    """A folder in a bucket.

    Attributes:
        bucket, prefix: where; prefix without slashes at its ends, "" for the whole bucket.
        endpoint: `scheme://host[:port]` of the server.
        region: what signatures name.
    """

    bucket: str
    prefix: str
    endpoint: str
    region: str

    @staticmethod
    def parse(url: str) -> S3Location:
        """Read `s3://bucket/prefix?endpoint=http://host:port&region=name`; without endpoint it is AWS.

        Raises:
            ConfigError: it cannot be read, has other options, or holds a key.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        odd = sorted(set(options) - {"endpoint", "region"})
        if "@" in parts.netloc:  # before anything that shows the URL
            raise ConfigError(
                "object store: an s3 URL must not hold a key, it would be logged; put it into AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY."
            )
        if parts.scheme != "s3" or not parts.netloc or odd or parts.fragment:
            unknown = f"; unknown: {', '.join(odd)}" if odd else ""
            raise ConfigError(
                f"object store {url!r}: expected s3://bucket/prefix?endpoint=http://host:port&region=name, the options "
                f"may be left out{unknown}."
            )
        region = options.get("region") or os.environ.get("AWS_REGION") or DEFAULT_REGION
        endpoint = options.get("endpoint") or f"https://s3.{region}.amazonaws.com"
        return S3Location(
            bucket=parts.netloc,
            prefix=parts.path.strip("/"),
            endpoint=check_base_url(endpoint),
            region=region,
        )

    def path(self, key: str) -> str:
        """The path of an object's URL, with the bucket in it (as every server understands it)."""
        return "/" + "/".join(part for part in (self.bucket, self.prefix, key) if part)


def check_base_url(url: str) -> str:
    """Return `scheme://host[:port]` without a slash at its end; ConfigError if it is anything else."""
    parts = urlsplit(url)
    plain = parts.scheme in ("http", "https") and parts.netloc and not parts.query and not parts.fragment
    if not plain or parts.path.strip("/") or "@" in parts.netloc:
        raise ConfigError(
            f"object store: {url!r} is not a server's address; expected http://host:port or https://host. A path is not "
            "possible, because signatures cover the whole path."
        )
    return f"{parts.scheme}://{parts.netloc}"


def presign(
    location: S3Location,
    credentials: Credentials,
    method: str,
    key: str,
    *,
    expires_s: int,
    headers: Mapping[str, str] | None = None,
    base_url: str | None = None,
    now_s: float | None = None,
) -> str:
    """A URL that allows one kind of request on one object for a while.

    Args:
        location: the bucket; `key` is below its prefix.
        credentials: the key that signs; the URL can do no more than it can.
        method: "PUT", "GET", ...
        key: the object's.
        expires_s: seconds from `now_s` on, by the server's clock.
        headers: what the request must carry, exactly; the server refuses it otherwise.
        base_url: `scheme://host[:port]` that the holder uses, where it differs from the location's endpoint.
        now_s: seconds since the epoch; now by default.
    """
    if not 1 <= expires_s <= MAX_EXPIRY_S:
        raise ConfigError(f"a signed URL can last 1 to {MAX_EXPIRY_S} seconds, not {expires_s}.")
    base = check_base_url(base_url) if base_url else location.endpoint
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
    scope = f"{stamp[:8]}/{location.region}/s3/aws4_request"
    signed = {name.lower(): value.strip() for name, value in (headers or {}).items()}
    signed["host"] = urlsplit(base).netloc
    names = ";".join(sorted(signed))
    query = {
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": names,
    }
    if credentials.session_token:
        query["X-Amz-Security-Token"] = credentials.session_token
    encoded = "&".join(f"{name}={quote(value, safe='')}" for name, value in sorted(query.items()))
    path = quote(location.path(key), safe="/-_.~")
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = f"{method}\n{path}\n{encoded}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
    text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    secret = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    signature = hmac.digest(secret, text.encode(), "sha256").hex()
    return f"{base}{path}?{encoded}&X-Amz-Signature={signature}"
