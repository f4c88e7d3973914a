"""The evaluator process: what it refuses, and that it does not spin where there is nothing to evaluate."""

import threading
import time

import pytest
import toy_fleet

from lwd.errors import ConfigError
from lwd.fleet.evaluator import run_evaluator
from lwd.fleet.folder import RunFolder
from lwd.fleet.service import ServiceContext


class Counting(ServiceContext):
    """Counts what it is told."""

    said = 0

    def say(self, **status):
        self.said += 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"episodes": 0}, "--episodes is 0"),
        ({"episodes": -3}, "--episodes is -3"),
        ({"every_s": -1.0}, "--every-s is -1"),
        ({"every_s": float("nan")}, "--every-s is nan"),
    ],
)
def test_options_that_cannot_work(tmp_path, options, says):
    context = Counting("evaluator", "evaluator")
    context.stopping.set()
    with pytest.raises(ConfigError, match=says):
        run_evaluator(context, toy_fleet.experiment(), RunFolder(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_it_waits_for_a_snapshot_without_spinning(tmp_path):
    context = Counting("evaluator", "evaluator")
    options = (context, toy_fleet.experiment(), RunFolder(tmp_path / "run"), 0.0)
    thread = threading.Thread(target=run_evaluator, args=options)
    thread.start()
    try:
        deadline = time.monotonic() + 30
        while not context.said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = context.said
        time.sleep(0.6)
        assert context.said - before <= 4
    finally:
        context.stopping.set()
        thread.join(30)
    assert not thread.is_alive()
