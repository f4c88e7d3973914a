"""An S3 server for tests that checks what moto lets pass: signatures (with botocore's code), expiry, lengths and checksums.

It can also misbehave: each entry of `faults` spoils one request.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


class StrictS3(ThreadingHTTPServer):
    """Objects in memory, by path. Use it as a context manager."""

    daemon_threads = True
    request_queue_size = 200

    def __init__(self, access_key: str, secret_key: str, region: str = "us-east-1") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.access_key, self.secret_key, self.region = access_key, secret_key, region
        self.objects: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.seen: list[str] = []
        self.clock_s = 0.0
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> StrictS3:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is what is tested."""

    def refusal(self, method: str, url: str, headers: dict[str, str]) -> str | None:
        """The code of the error that a request deserves, None if it may pass."""
        if f"Credential={self.access_key}/" in headers.get("authorization", ""):
            return None  # whoever holds the bucket's key is not what is tested here
        query = dict(parse_qsl(urlsplit(url).query))
        signature, stamp = query.pop("X-Amz-Signature", ""), query.get("X-Amz-Date", "")
        names = query.get("X-Amz-SignedHeaders", "").split(";")
        if not signature or "host" not in names or any(name not in headers for name in names):
            return "AccessDenied"
        begin = calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
        if not begin - 900 <= time.time() + self.clock_s <= begin + int(query["X-Amz-Expires"]):
            return "AccessDenied"
        plain = f"http://{headers['host']}{url}".replace(f"&X-Amz-Signature={signature}", "")
        request = AWSRequest(method=method, url=plain, headers={name: headers[name] for name in names})
        request.context["timestamp"] = stamp
        auth = S3SigV4QueryAuth(Credentials(self.access_key, self.secret_key), "s3", self.region)
        text = auth.string_to_sign(request, auth.canonical_request(request))
        return None if auth.signature(text, request) == signature else "SignatureDoesNotMatch"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StrictS3

    def log_message(self, *_: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def do_PUT(self) -> None:
        if self._spoiled():
            return None
        length = int(self.headers.get("content-length", -1))
        if length < 0:
            return self._answer(411, "MissingContentLength")
        half = self._fault("cut-put")
        data = self.rfile.read(length // 2 if half else length)
        if half or len(data) < length:
            self.close_connection = True
            return None
        digest = self.headers.get("x-amz-checksum-sha256")
        if digest is not None and base64.b64decode(digest) != hashlib.sha256(data).digest():
            return self._answer(400, "BadDigest")
        with self.server.lock:
            if self.headers.get("if-none-match") == "*" and self._path in self.server.objects:
                return self._answer(412, "PreconditionFailed")
            self.server.objects[self._path] = data
        if self._fault("lose-answer"):
            self.close_connection = True
            return None
        return self._answer(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self._spoiled():
            return
        data = self.server.objects.get(self._path)
        if data is None:
            self._answer(404, "NoSuchKey")
            return
        first = int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if "range" in self.headers else 200)
        self.send_header("content-length", str(len(data) - first))
        self.send_header("etag", '"x"')
        self.send_header("last-modified", "Sat, 21 Nov 2026 12:00:00 GMT")
        if "range" in self.headers:
            self.send_header("content-range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            part = data[first:]
            if self._fault("cut-get"):
                part, self.close_connection = part[: len(part) // 2], True
            self.wfile.write(part)

    @property
    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _fault(self, name: str) -> bool:
        with self.server.lock:
            if name in self.server.faults[:1]:
                self.server.faults.pop(0)
                return True
        return False

    def _spoiled(self) -> bool:
        """Refuse, or misbehave before anything is done."""
        self.server.seen.append(f"{self.command} {self._path} {self.headers.get('range', '')}".strip())
        headers = {name.lower(): value for name, value in self.headers.items()}
        code = self.server.refusal(self.command, self.path, headers)
        if code is not None:
            self._answer(403, code)
        elif self._fault("503"):
            self._answer(503, "SlowDown")
        elif self._fault("redirect"):
            self._answer(307, "TemporaryRedirect", location=f"{self.server.url}/elsewhere")
        elif self._fault("stall"):
            time.sleep(1.5)
            self.close_connection = True
        else:
            return False
        return True

    def _answer(self, status: int, code: str = "", location: str | None = None) -> None:
        body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        if self.command == "HEAD":
            body = b""
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if location:
            self.send_header("location", location)
        if status >= 300:  # the body may not have been read
            self.close_connection = True
            self.send_header("connection", "close")
        self.send_header("etag", '"x"')
        self.end_headers()
        self.wfile.write(body)
