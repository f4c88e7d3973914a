"""Cells are run in the order in which they can be, go on where they were cut, and do not take one another down."""

from __future__ import annotations

import json
import os
from io import StringIO

import made_up
import pytest
import toy_plan
from rich.console import Console

from lwd.errors import ConfigError
from lwd.results import runner as runners
from lwd.results import worker
from lwd.results.plan import chosen
from lwd.results.runfile import read_run_file, write_run_file
from lwd.results.runner import Runner, core_groups
from lwd.results.settings import settings
from lwd.results.state import cell_phases, claim_cell, hold, is_held, phase_names, states, to_run
from lwd.results.status import print_status, status_json

SFT, OFFLINE, ONLINE = (toy_plan.cell(f"{row}/seed_0") for row in ("sft", "lwd_offline", "lwd_online"))
DAGGER = toy_plan.cell("hg_dagger_online/seed_0")


def finish_folder(cell, places, seconds=10.0, phases=None):
    """The traces of a cell that ran its phases, or some of them."""
    folder = places.folder(cell.id)
    claim_cell(cell, folder, "test")
    (folder / "catalogue.db").touch()
    names = phase_names(cell)
    (folder / "timing.json").write_text(json.dumps(dict.fromkeys(names[:phases], seconds)))


def finish(cell, places, **changes):
    """A cell that is done: run folder and run file."""
    finish_folder(cell, places)
    write_run_file(
        places.run_file(cell.id),
        made_up.run(
            cell.method,
            cell.seed,
            **{"benchmark": "toy", "settings": settings(cell.experiment, cell.stage), **changes},
        ),
    )


def state(cell, places):
    (found,) = (s for s in states(toy_plan.plan(), places) if s.cell.id == cell.id)
    return found


# ---- phases and states -----------------------------------------------------------------------------------------------


def test_a_cell_evaluates_its_last_stage_only():
    assert phase_names(ONLINE) == ["online", "evaluate online"]
    assert phase_names(DAGGER) == ["train offline", "online", "evaluate online"]


def test_states_are_read_from_files(places):
    assert state(SFT, places).state == "missing"
    finish_folder(SFT, places, phases=2)
    found = state(SFT, places)
    assert (found.state, found.phase, found.phases) == ("cut", "collect rollouts", (2, 4))
    with hold(places.lock(SFT.id)):
        assert state(SFT, places).state == "running"
        with pytest.raises(ConfigError, match="another process runs this cell"), hold(places.lock(SFT.id)):
            pass
    assert not is_held(places.lock(SFT.id))
    finish(SFT, places)
    assert (state(SFT, places).state, state(SFT, places).left_s) == ("done", 0.0)


def test_a_run_file_with_other_settings_does_not_count(places):
    finish(SFT, places, settings={"gamma": "0.1"})
    found = state(SFT, places)
    assert (found.state, found.note) == ("cut", "its run file has other settings")


def test_the_time_left_is_what_the_same_phases_took_elsewhere(places):
    assert state(SFT, places).left_s is None
    finish_folder(SFT, places, seconds=10.0)
    other = toy_plan.cell("sft/seed_1")
    assert state(other, places).left_s == 40.0
    finish_folder(other, places, seconds=20.0, phases=1)
    assert state(other, places).left_s == 30.0
    finish_folder(ONLINE, places, seconds=5.0)
    assert state(DAGGER, places).left_s is None, "nobody trained offline yet"
    finish_folder(OFFLINE, places, seconds=7.0)
    assert state(DAGGER, places).left_s == 7.0 + 5.0 + 5.0


def test_what_a_missing_cell_goes_on_from_is_run_too(places):
    planned = toy_plan.plan()
    wanted = chosen(planned, ONLINE.id)
    assert [c.id for c in to_run(planned, wanted, places)] == [SFT.id, OFFLINE.id, ONLINE.id]
    finish(SFT, places)
    assert [c.id for c in to_run(planned, wanted, places)] == [OFFLINE.id, ONLINE.id]
    finish(OFFLINE, places)
    finish(ONLINE, places)
    assert to_run(planned, wanted, places) == []
    # Only run files were committed, and one is lost: its parents' folders must be made again.
    for cell in (SFT, OFFLINE):
        (places.folder(cell.id) / "timing.json").unlink()
    places.run_file(ONLINE.id).unlink()
    assert [c.id for c in to_run(planned, wanted, places)] == [SFT.id, OFFLINE.id, ONLINE.id]


def test_status_for_people_and_as_json(places):
    finish(SFT, places)
    finish_folder(OFFLINE, places, phases=1)
    found = states(toy_plan.plan(), places)
    rows = {row["cell"]: row for row in json.loads(json.dumps(status_json(found)))}
    assert rows[SFT.id]["state"] == "done"
    assert (rows[OFFLINE.id]["state"], rows[OFFLINE.id]["phase"]) == ("cut", "evaluate offline")
    assert (rows[ONLINE.id]["state"], rows[ONLINE.id]["left_s"]) == ("missing", None)
    out = StringIO()
    print_status(Console(file=out, width=120), found, jobs=2)
    text = out.getvalue()
    assert "1 of 2" in text
    assert f"{OFFLINE.id}: cut, evaluate offline (1 of 2 phases done)" in text
    assert "1 of 7 cells done" in text


# ---- one cell --------------------------------------------------------------------------------------------------------


class CutError(Exception):
    pass


@pytest.fixture
def phases(monkeypatch):
    """Phases that only note that they ran; the one named in `cut` is cut."""

    class Ran(list):
        cut = None

    ran = Ran()

    def work(cell, name):
        if (cell.id, name) == ran.cut:
            raise CutError
        ran.append((cell.id, name))

    def fake(cell, folder, console):
        names = real(cell, folder, console)
        return {name: lambda services, name=name: work(cell, name) for name in names}

    real = cell_phases
    monkeypatch.setattr(worker, "cell_phases", fake)
    monkeypatch.setattr(
        worker,
        "gather",
        lambda cell, folder, timing, command: made_up.run(
            cell.method,
            cell.seed,
            benchmark="toy",
            timing=timing,
            command=command,
            settings=settings(cell.experiment, cell.stage),
        ),
    )
    return ran


def test_a_cell_that_was_cut_goes_on_in_its_own_fork(places, console, phases):
    worker.run_cell(SFT, places, console)
    (places.folder(SFT.id) / "metrics").mkdir()
    phases.cut = (OFFLINE.id, "evaluate offline")
    with pytest.raises(CutError):
        worker.run_cell(OFFLINE, places, console)
    assert not places.run_file(OFFLINE.id).exists()
    (places.folder(OFFLINE.id) / "mine").touch()
    phases.cut = None
    worker.run_cell(OFFLINE, places, console)
    assert phases[-2:] == [(OFFLINE.id, "train offline"), (OFFLINE.id, "evaluate offline")]
    assert (places.folder(OFFLINE.id) / "mine").exists(), "the fork was not made a second time"
    assert read_run_file(places.run_file(OFFLINE.id)).command.endswith(
        f"--benchmark toy --only '{OFFLINE.id}'"
    )
    before = list(phases)
    places.run_file(OFFLINE.id).unlink()
    worker.run_cell(OFFLINE, places, console)
    assert phases == before, "all is done: only the run file is written again"


def test_a_folder_with_other_settings_is_refused(places, console, phases):
    worker.run_cell(SFT, places, console)
    path = places.folder(SFT.id) / "settings.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "gamma": "0.5"}))
    with pytest.raises(ConfigError, match="was begun with other settings than toy/sft/seed_0 has now"):
        worker.run_cell(SFT, places, console)


def test_a_cell_before_its_parent_says_so(places, console, phases):
    with pytest.raises(ConfigError, match="Run the cell that makes it first"):
        worker.run_cell(OFFLINE, places, console)


def test_a_cells_process_writes_a_log_and_an_exit_code(places):
    process = worker.start(OFFLINE, places, sorted(os.sched_getaffinity(0))[:1])
    process.join(250)
    assert process.exitcode == 2
    assert "is no run folder" in places.log(OFFLINE.id).read_text()


# ---- many cells ------------------------------------------------------------------------------------------------------


class FakeProcess:
    """Stands in for a cell's process: ends at the second look, with its folder and run file made."""

    def __init__(self, cell, places, code):
        self.cell, self.places, self.code, self.looks, self.killed = cell, places, code, 0, False
        self.exitcode = None

    def is_alive(self):
        self.looks += 1
        if self.looks >= 2 and self.exitcode is None:
            self.exitcode = self.code
            if self.code == 0:
                finish(self.cell, self.places)
        return self.exitcode is None and not self.killed

    def join(self):
        pass

    def kill(self):
        self.killed = True


@pytest.fixture
def fleet(places, monkeypatch):
    """`run(ids, fails)`: what a runner starts, in order, and how many at once."""
    monkeypatch.setattr(runners, "_POLL_S", 0.0)

    class Fleet:
        started: list[str]
        processes: list[FakeProcess]

        def run(self, wanted, fails=(), jobs=2):
            self.started, self.processes = [], []
            planned = toy_plan.plan()
            todo = to_run(planned, chosen(planned, wanted), places)

            def start(cell, places, cores):
                assert sum(p.exitcode is None for p in self.processes) < jobs
                self.started.append(cell.id)
                self.processes.append(FakeProcess(cell, places, 1 if cell.id in fails else 0))
                return self.processes[-1]

            return Runner(todo, planned, places, jobs, start).run(Console(quiet=True))

    return Fleet()


def test_every_cell_runs_after_what_it_goes_on_from(fleet):
    progress = fleet.run("*")
    assert sorted(fleet.started) == sorted(cell.id for cell in toy_plan.plan())
    for cell in toy_plan.plan():
        assert cell.parent is None or fleet.started.index(cell.parent) < fleet.started.index(cell.id)
    assert (len(progress.done), progress.failed, progress.waiting, progress.running) == (7, [], [], [])
    fleet.run("*")
    assert fleet.started == [], "all is done"


def test_one_failing_cell_stops_only_what_goes_on_from_it(fleet):
    progress = fleet.run("*", fails=[OFFLINE.id])
    assert progress.failed == [OFFLINE.id]
    assert progress.waiting == [ONLINE.id]
    assert set(progress.done) == {c.id for c in toy_plan.plan()} - {OFFLINE.id, ONLINE.id}
    assert fleet.run("*").failed == []
    assert fleet.started == [OFFLINE.id, ONLINE.id], "the next run tries again"


def test_a_cell_that_another_runner_has_is_left_to_it(fleet, places):
    with hold(places.lock(SFT.id)):
        progress = fleet.run("*/seed_0", jobs=1)
    assert fleet.started == []
    assert SFT.id in progress.waiting


def test_ctrl_c_ends_the_cells(fleet, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(runners.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fleet.run("*")
    assert fleet.processes
    assert all(process.killed for process in fleet.processes)


def test_cores_are_dealt_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    assert core_groups(2)[:2] == [[0, 2], [1, 3]]
    assert core_groups(4)[:4] == [[0], [1], [2], [3]]
    assert core_groups(6)[:6] == [[0], [1], [2], [3], [0], [1]]
    with pytest.raises(ConfigError, match="--jobs must be at least 1"):
        core_groups(0)
