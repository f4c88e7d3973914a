"""Addresses of buckets, and signatures against Amazon's own example."""

import calendar

import pytest

from lwd.errors import ConfigError
from lwd.log.objects import ObjectStore
from lwd.log.s3 import Credentials, S3Location, presign

# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
EXAMPLE = Credentials(
    access_key="AKIAIOSFODNN7EXAMPLE", secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)
SIGNATURE = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


def test_a_signature_is_the_one_of_amazons_example():
    bucket = S3Location(
        bucket="", prefix="", endpoint="https://examplebucket.s3.amazonaws.com", region="us-east-1"
    )
    now = float(calendar.timegm((2013, 5, 24, 0, 0, 0)))
    url = presign(bucket, EXAMPLE, "GET", "test.txt", expires_s=86400, now_s=now)
    assert url.endswith(f"&X-Amz-SignedHeaders=host&X-Amz-Signature={SIGNATURE}")
    assert url.startswith("https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&")
    with pytest.raises(ConfigError, match="1 to 604800 seconds"):
        presign(bucket, EXAMPLE, "GET", "test.txt", expires_s=604801)


def test_a_url_names_bucket_folder_server_and_region(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_REGION", raising=False)
    plain = S3Location.parse("s3://bucket/a/b/")
    assert (plain.bucket, plain.prefix, plain.region) == ("bucket", "a/b", "us-east-1")
    assert plain.endpoint == "https://s3.us-east-1.amazonaws.com"
    assert plain.path("k") == "/bucket/a/b/k"
    own = S3Location.parse("s3://bucket?endpoint=http://10.0.0.7:9000/&region=lab")
    assert (own.prefix, own.endpoint, own.region) == ("", "http://10.0.0.7:9000", "lab")
    assert own.path("k") == "/bucket/k"


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///x",
        "s3://b?endpoint=nonsense",
        "s3://b?enpoint=http://x",
        "s3://b?endpoint=http://x/y",
        "s3://b#x",
    ],
)
def test_urls_that_cannot_work_say_why(url: str):
    with pytest.raises(ConfigError, match="expected"):
        ObjectStore(url)


def test_a_key_is_never_shown():
    with pytest.raises(ConfigError) as caught:
        ObjectStore("s3://AKIA:hunter2@bucket/x")
    assert "hunter2" not in str(caught.value)
    assert "EXAMPLEKEY" not in repr(EXAMPLE)
    found = Credentials.from_environment({"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hunter2"})
    assert found == Credentials(access_key="a", secret_key="hunter2")
    assert "hunter2" not in repr(found)
    assert Credentials.from_environment({"AWS_ACCESS_KEY_ID": "a"}) is None
