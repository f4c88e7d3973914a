"""For the tests of the command line: how to run one, and a run folder to run it on."""

import sys

import numpy as np
import pytest
from log_cases import IDS, make_episode, open_fleet

from lwd import cli
from lwd.episode import Source
from lwd.fleet.folder import RunFolder, open_services


@pytest.fixture
def lwd(capsys, monkeypatch):
    """Run a command line; exit code, stdout, stderr. Tables and help do not wrap."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lwd", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def run_folder(tmp_path):
    """Three episodes, of which one was sent twice, one refused, and two snapshots."""
    folder = tmp_path / "run"
    folder.mkdir()
    with open_fleet(folder) as fleet:
        for i, episode_id in enumerate(IDS):
            fleet.send_episode(
                make_episode(10 + i, episode_id=episode_id, source=Source.ONLINE if i else Source.DEMO)
            )
        wrong = make_episode(5, episode_id="0199bb" + "e" * 26, proprio_dim=4)
        fleet.send_episode(wrong)
        fleet.drain()
        fleet.coordinator.commit()
    with open_services(RunFolder(folder)) as services:
        for step in (50, 100):
            arrays = {"weight": np.full(3, step, np.float32)}
            services.snapshots.publish(arrays, step, 1, {"stage": "online"})
    return folder
