"""Whatever reads what others wrote: 3,000 damaged payloads end in success or an LwdError, soon, in little memory."""

import random

import pytest

from lwd.errors import LwdError
from tools import fuzz
from tools.fuzz_targets import Target


def test_damaged_payloads_do_no_harm():
    report = fuzz.fuzz(3000, seed=1)
    assert report.count == 3000
    assert report.findings == []
    assert report.refused > 1500
    assert report.growth_mib < 200
    assert len(report.targets) >= 20


def test_a_payload_is_known_by_its_number():
    once = fuzz.fuzz(0, only=77)
    assert once.count == 1
    assert fuzz.fuzz(0, only=77).targets == once.targets


@pytest.mark.parametrize("kind", ["error", "hang", "memory", "refused"])
def test_what_must_not_happen_is_found(monkeypatch: pytest.MonkeyPatch, kind: str):
    def run(data: bytes) -> None:
        if kind == "error":
            raise KeyError("x")
        if kind == "refused":
            raise LwdError("no")
        if kind == "memory":
            bytearray(b"x" * (900 << 20))
        while kind == "hang":
            pass

    monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.2)
    report = fuzz.Report(seed=0)
    before = fuzz.signal.signal(fuzz.signal.SIGVTALRM, fuzz._hang)
    fuzz._one(report, 0, kind, Target(random.Random.random, run), b"x")
    fuzz.signal.signal(fuzz.signal.SIGVTALRM, before)
    assert len(report.findings) == (0 if kind == "refused" else 1)
