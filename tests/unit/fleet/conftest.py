"""A toy run for the tests of the fleet: collected and trained once for all of them, copied where a test goes on with it."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from rich.console import Console

# Tests, simulator workers and fleet processes all import toy_fleet.
HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(autouse=True)
def quick_children(monkeypatch):
    """`quick_compilation` for the processes that a test starts."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture
def console():
    return Console(quiet=True)


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory):
    """A run folder after collection, SFT, rollouts and offline RL."""
    import jax
    import toy_fleet

    from lwd.episode import Source
    from lwd.fleet.collect import collect
    from lwd.fleet.folder import RunFolder, open_services
    from lwd.fleet.offline import train_offline, train_sft

    x, quiet = toy_fleet.experiment(), Console(quiet=True)
    folder = RunFolder(tmp_path_factory.mktemp("toy") / "run")
    jax.config.update("jax_disable_most_optimizations", True)  # compiled to run a few times
    with open_services(folder) as services:
        collect(x, services, (Source.DEMO, Source.PLAY), quiet)
        train_sft(x, services, quiet)
        collect(x, services, (Source.ROLLOUT,), quiet)
        train_offline(x, services, quiet)
    jax.config.update("jax_disable_most_optimizations", False)
    return folder.path


@pytest.fixture(scope="session")
def trained(trained_folder):
    """The toy run, opened for reading only."""
    from lwd.fleet.folder import RunFolder, open_services

    with open_services(RunFolder(trained_folder)) as services:
        yield services


@pytest.fixture
def trained_copy(trained_folder, tmp_path):
    """A copy of the toy run that a test may go on with."""
    from lwd.fleet.folder import RunFolder

    shutil.copytree(trained_folder, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="session")
def first_part(trained_folder, tmp_path_factory):
    """The toy run after the first of two parts of the fleet's hours: 120 control steps and what robots finish."""
    import toy_fleet

    from lwd.fleet.folder import RunFolder
    from lwd.fleet.rounds import collect_round

    folder = RunFolder(tmp_path_factory.mktemp("delivered") / "run")
    shutil.copytree(trained_folder, folder.path)
    collect_round(toy_fleet.in_turns(), folder, 1, Console(quiet=True))
    return folder


@pytest.fixture
def delivered(first_part, tmp_path):
    """A copy of it."""
    from lwd.fleet.folder import RunFolder

    shutil.copytree(first_part.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")
