"""A learner as two processes, offline and online: one publishes, both end, and the policy is that of one process."""

import os
import shutil
import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import toy_fleet

from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.learner import run_learner
from lwd.fleet.learner_job import free_port
from lwd.fleet.learner_rounds import train_round
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.offline import last_state, train_offline, train_sft
from lwd.fleet.policies import find_snapshot
from lwd.fleet.process import ProcessContext
from lwd.models.arrays import to_arrays

PROGRAM = Path(__file__).with_name("learner_hosts_run.py")
X = toy_fleet.experiment()

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.timeout(600)]


def published(folder):
    """The online snapshots' arrays, with their learner steps and manifests."""
    with open_services(folder) as services:
        rows = [row for row in services.snapshots.list() if row.meta["stage"] == "online"]
        return [(row.learner_step, row.manifest, services.snapshots.load(row.number)[0]) for row in rows]


def state(folder, stage):
    """The arrays of a stage's newest checkpoint."""
    with open_services(folder) as services:
        return to_arrays(last_state(X, services, X.online.learner, stage))


def environment():
    """One device per process."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def run_pair(folder, log, *how):
    """Both processes to their end; killed if they hang."""
    address = f"127.0.0.1:{free_port()}"
    with log.open("wb") as out:
        both = [
            subprocess.Popen(
                [sys.executable, "-W", "ignore", str(PROGRAM), str(folder.path), str(i), address, *how],
                env=environment(),
                stdout=out,
                stderr=out,
            )
            for i in range(2)
        ]
        try:
            codes = [process.wait(280) for process in both]
        finally:
            for process in both:
                process.kill()
                process.wait()
    assert codes == [0, 0], log.read_text()[-3000:]


def test_two_processes_publish_once_what_one_process_publishes(trained_copy, tmp_path):
    together = RunFolder(tmp_path / "together")
    shutil.copytree(trained_copy.path, together.path)
    stop = threading.Event()
    stop.set()
    receive, send = Pipe(duplex=False)
    run_learner(ProcessContext("learner", stop, send), X, trained_copy)
    receive.close()
    run_pair(together, tmp_path / "log")

    alone, both = published(trained_copy), published(together)
    assert [row[:2] for row in both] == [row[:2] for row in alone]
    assert [step for step, _, _ in both] == [5, 10]
    for (_, _, expected), (_, _, found) in zip(alone, both, strict=True):
        for name in expected:  # an average that has hardly moved yet, hence the bound
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-9, err_msg=name)
    expected, found = state(trained_copy, "online"), state(together, "online")
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    began, weight = state(together, "offline"), "critic.value.layers.0.weight"
    assert np.abs(found[weight] - began[weight]).max() > 1e-4, "what was compared has moved"
    rows = read_metrics(together.metrics("online"))
    assert [row["learner_step"] for row in rows] == [5, 10]
    assert [path.name for path in together.metrics("online").parent.glob("online*")] == ["online.jsonl"]
    assert (together.path / "replay" / "learner-1").is_dir()
    assert (together.checkpoints("online") / "10").is_dir()


def test_two_processes_learn_a_round_as_one_does(delivered, tmp_path, console):
    together = RunFolder(tmp_path / "together")
    shutil.copytree(delivered.path, together.path)
    with open_services(delivered) as services:
        train_round(toy_fleet.in_turns(), services, 1, console)
    run_pair(together, tmp_path / "log", "rounds")
    [(step, manifest, expected)], [(*both, found)] = published(delivered), published(together)
    assert both == [step, manifest]
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-9, err_msg=name)
    assert [row["learner_step"] for row in read_metrics(together.metrics("online_round_1"))] == [5, 10, 12]


def newest(folder, stage):
    """The arrays of a stage's newest snapshot."""
    with open_services(folder) as services:
        return services.snapshots.load(find_snapshot(services, stage).number)[0]


def count(folder):
    with open_services(folder) as services:
        return len(services.snapshots.list())


def test_a_pair_of_processes_trains_what_one_trains(trained_copy, tmp_path, console):
    """`lwd train` with a watchdog around two processes, as a user starts it: the numbers of `train_sft` and `train_offline`."""
    for stage in ("sft", "offline"):
        shutil.rmtree(trained_copy.checkpoints(stage))
    together = RunFolder(tmp_path / "together")
    shutil.copytree(trained_copy.path, together.path)
    before = count(together)
    for stage, train in (("sft", train_sft), ("offline", train_offline)):
        with open_services(trained_copy) as services:
            train(X, services, console)
        asked = ["train", stage, "--recipe", "toy_fleet:experiment", "--out", str(together.path)]
        command = [sys.executable, "-W", "ignore", "-m", "lwd.cli", *asked, "--processes", "2"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "2 processes train" in done.stdout
        expected, found = newest(trained_copy, stage), newest(together, stage)
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
        metrics = together.metrics(stage)
        assert [path.name for path in metrics.parent.glob(f"{stage}*")] == [metrics.name]
    assert count(together) == before + 2
