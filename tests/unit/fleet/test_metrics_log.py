"""Metrics and event lines."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from lwd.evaluate.jsonfile import ResultError
from lwd.fleet.metrics_log import MetricsLog, event, read_metrics


def test_lines_are_there_at_once_and_come_back(tmp_path: Path):
    path = tmp_path / "metrics" / "sft.jsonl"
    with MetricsLog(path) as log:
        log.write(
            stage="sft",
            learner_step=1,
            **{"value/tau": np.float32(0.5), "n": np.int64(3), "ok": np.bool_(True)},
        )
        assert read_metrics(path) == [
            {"stage": "sft", "learner_step": 1, "value/tau": 0.5, "n": 3, "ok": True}
        ]
        log.write(x=np.asarray(2.5), y=np.asarray([1]), z=None)
    assert read_metrics(path)[1] == {"x": 2.5, "y": 1, "z": None}


def test_not_finite_is_null_and_said_once_per_name(tmp_path: Path):
    log = MetricsLog(tmp_path / "m.jsonl")
    with pytest.warns(RuntimeWarning, match="'loss' is nan"):
        log.write(loss=float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        log.write(loss=np.float32("inf"))
    with pytest.warns(RuntimeWarning, match="'kl' is -inf"):
        log.write(kl=-np.inf)
    log.close()
    assert read_metrics(log.path) == [{"loss": None}, {"loss": None}, {"kl": None}]


def test_arrays_are_refused_and_nothing_is_written(tmp_path: Path):
    with MetricsLog(tmp_path / "m.jsonl") as log, pytest.raises(TypeError, match=r"shape \(2,\)"):
        log.write(loss=np.zeros(2))
    assert read_metrics(tmp_path / "m.jsonl") == []


def test_torn_last_line_is_left_out_and_appending_repairs_it(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    assert read_metrics(path) == [{"a": 1}]
    with MetricsLog(path) as log:
        log.write(a=3)
    assert read_metrics(path) == [{"a": 1}, {"a": 3}]


def test_damage_in_the_middle_is_an_error(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ResultError, match="line 2"):
        read_metrics(path)
    path.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(ResultError, match="line 2: expected an object"):
        read_metrics(path)
    with pytest.raises(ResultError, match="cannot be read"):
        read_metrics(tmp_path / "none.jsonl")


def test_threads_do_not_mix_their_lines(tmp_path: Path):
    with MetricsLog(tmp_path / "m.jsonl") as log:

        def work(name: int) -> None:
            for step in range(200):
                log.write(name=name, step=step, text="x" * 200)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_metrics(tmp_path / "m.jsonl")) == 800


def test_event_is_one_greppable_line(caplog: pytest.LogCaptureFixture):
    logger = logging.getLogger("lwd.test")
    with caplog.at_level(logging.INFO, "lwd.test"):
        event(
            logger,
            "quarantined",
            episode="0a1b",
            reason="nan",
            detail='row 3\nis "nan" %s',
            share=1 / 3,
            robot=None,
        )
    line = caplog.messages[0]
    assert line == 'quarantined episode=0a1b reason=nan detail="row 3\\nis \\"nan\\" %s" share=0.333333'
    assert json.loads(line.split("detail=")[1].split(" share")[0]) == 'row 3\nis "nan" %s'
