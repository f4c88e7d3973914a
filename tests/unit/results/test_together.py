"""Seeds that train together under vmap: the numbers of seeds that train alone, in folders that go on alone."""

import shutil

import numpy as np
import pytest
import toy_plan

from lwd.errors import ConfigError
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.metrics_log import read_metrics
from lwd.fleet.policies import find_snapshot
from lwd.results.plan import Places
from lwd.results.runfile import read_run_file
from lwd.results.together import train_rows_together, train_together
from lwd.results.worker import run_cell

CELLS = [toy_plan.cell(f"lwd_offline/seed_{seed}") for seed in (0, 1)]


@pytest.fixture
def alone(places, console):
    """Both seeds' SFT runs (one and the same), and their offline runs, each by itself."""
    sft = toy_plan.cell("sft/seed_0")
    run_cell(sft, places, console)
    other = toy_plan.cell("sft/seed_1")
    shutil.copytree(places.folder(sft.id), places.folder(other.id))
    for cell in CELLS:
        run_cell(cell, places, console)
    return places


@pytest.mark.usefixtures("quick_compilation")
def test_seeds_learn_together_what_they_learn_alone(alone, tmp_path, console):
    together = Places(tmp_path / "together", tmp_path / "results_together")
    for seed in (0, 1):
        shutil.copytree(alone.folder(f"toy/sft/seed_{seed}"), together.folder(f"toy/sft/seed_{seed}"))
    assert list(train_rows_together(toy_plan.plan(), CELLS, together, console)) == ["lwd_offline"]
    for cell in CELLS:
        mine, theirs = (RunFolder(places.folder(cell.id)) for places in (together, alone))
        for ours, expected in zip(*(read_metrics(f.metrics("offline")) for f in (mine, theirs)), strict=True):
            assert ours["learner_step"] == expected["learner_step"]
            for name in ("value/quantile", "value/entropy", "policy/path_kl"):
                assert ours.get(name) == pytest.approx(expected.get(name), rel=1e-3, abs=1e-6), name
        run_cell(cell, together, console)
        for left, right in zip(snapshot(mine), snapshot(theirs), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-3, atol=1e-5)
        assert (
            read_run_file(together.run_file(cell.id)).settings
            == read_run_file(alone.run_file(cell.id)).settings
        )
    first, second = (snapshot(RunFolder(together.folder(cell.id))) for cell in CELLS)
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), (
        "each seed has its own luck"
    )
    assert list(train_rows_together(toy_plan.plan(), CELLS, together, console)) == [], "nothing is left"


def test_what_cannot_train_together_is_refused(places, console):
    with pytest.raises(ConfigError, match="only seeds of one row that learns offline"):
        train_together([CELLS[0], toy_plan.cell("lwd_online/seed_1")], places, console)
    with pytest.raises(ConfigError, match=r"goes on from toy/sft/seed_0\. Run that first"):
        list(train_rows_together(toy_plan.plan(), CELLS, places, console))


def snapshot(folder):
    with open_services(folder) as services:
        arrays, _ = services.snapshots.load(find_snapshot(services, "offline").number)
    return [arrays[name] for name in sorted(arrays)]
