"""The evidence's whole tree on the toy fleet: SFT, its fork that learns offline, and what is kept of both."""

from __future__ import annotations

import json

import pytest
import toy_plan

from lwd.fleet.folder import RunFolder, open_services
from lwd.results.runfile import read_run_file
from lwd.results.worker import run_cell


@pytest.mark.usefixtures("quick_compilation")
def test_offline_goes_on_from_sft_and_leaves_it_alone(places, console):
    sft, offline = toy_plan.cell("sft/seed_0"), toy_plan.cell("lwd_offline/seed_0")
    run_cell(sft, places, console)
    before = snapshots(places.folder(sft.id))
    run_cell(offline, places, console)
    assert snapshots(places.folder(sft.id)) == before == ["sft"]
    assert snapshots(places.folder(offline.id)) == ["sft", "offline"]

    first, second = (read_run_file(places.run_file(cell.id)) for cell in (sft, offline))
    assert {(r.task, r.seed) for r in first.records} == {(r.task, r.seed) for r in second.records}
    assert len(first.records) == 2 * 2, "two tasks, two starts"
    assert sum(row.episodes for row in first.dataset) > 0
    assert not first.learner
    assert {"value/entropy", "value/tau", "value/quantile"} <= set(second.learner)
    assert list(second.timing) == ["train offline", "evaluate offline"]
    assert second.traces
    assert second.differs == {}
    with open_services(RunFolder(places.folder(sft.id))) as services:
        (policy,) = services.snapshots.list()
    assert first.sft_policy == second.sft_policy == policy.sha256[:12]
    assert len(places.run_file(offline.id).read_bytes()) < 50_000
    timing = json.loads((places.folder(offline.id) / "timing.json").read_text())
    assert second.wall_s == pytest.approx(sum(timing.values()))


def snapshots(folder):
    with open_services(RunFolder(folder)) as services:
        return [snapshot.meta["stage"] for snapshot in services.snapshots.list()]
