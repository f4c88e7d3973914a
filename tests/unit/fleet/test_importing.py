"""`lwd log export --format lerobot` from one run and `lwd log import` into another: the demonstrations that it then clones."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import toy_fleet
from rich.console import Console

from lwd.cli.interchange import LogExport, LogImport
from lwd.episode import Source
from lwd.errors import ConfigError
from lwd.fleet.collect import collect
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.offline import train_sft
from lwd.log.codec import decode
from lwd.log.deletion import delete

RECIPE = "test_importing:recording_elsewhere"


def recording_elsewhere(seed=0):
    """The toy experiment of somebody whose demonstrations come from a file."""
    x = toy_fleet.experiment(seed)
    return replace(x, collect=replace(x.collect, demos={}, play=0, rollouts=0))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run folder with demonstrations."""
    folder = RunFolder(tmp_path_factory.mktemp("recorded") / "run")
    with open_services(folder) as services:
        collect(toy_fleet.experiment(), services, (Source.DEMO,), Console(quiet=True))
    return folder.path


@pytest.fixture(scope="module")
def dataset(recorded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lerobot") / "demos"
    LogExport(folder=folder, format="lerobot", source="demo", out=recorded).run()
    return folder


def importing(dataset, out, **options):
    return LogImport(dataset=dataset, recipe=RECIPE, out=out, **options)


def test_demonstrations_of_a_file_are_cloned_as_recorded_ones_are(
    recorded, dataset, tmp_path, console, capsys
):
    out = tmp_path / "run"
    with open_services(RunFolder(recorded)) as services:
        sent = services.catalogue.episodes()
    importing(dataset, out).run()
    assert "9 episodes imported, 0 were there, 0 refused" in capsys.readouterr().out
    with open_services(RunFolder(out)) as services:
        rows = services.catalogue.episodes()
        assert [(row.source, row.robot, row.operator) for row in rows] == [
            ("demo", "lerobot", "lerobot")
        ] * len(sent)
        assert sorted(row.steps + 1 for row in rows) == sorted(row.steps for row in sent)
        assert sorted(row.outcome for row in rows) == sorted(row.outcome for row in sent)
        assert services.catalogue.quarantined() == []
        assert decode(services.objects.get(rows[0].key)).interventions.all()
        train_sft(recording_elsewhere(), services, console)
        assert services.snapshots.read(1).meta["stage"] == "sft"
    assert {row["source"] for row in json.loads((out / "dataset.json").read_text())} == {"demo"}


def test_importing_twice_and_after_a_cut_counts_once_and_what_was_deleted_stays_out(
    dataset, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    calls = iter(range(4))

    def cut(*_):
        if next(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lwd.fleet.importing.validate", cut)
        with pytest.raises(KeyboardInterrupt):
            importing(dataset, out).run()
    importing(dataset, out).run()
    assert "6 episodes imported, 3 were there, 0 refused" in capsys.readouterr().out
    with open_services(RunFolder(out)) as services:
        gone = services.catalogue.episodes()[0].episode_id
        delete(services.catalogue, services.objects, gone, reason="blurred", deleted_by="kim")
    importing(dataset, out).run()
    said = "0 episodes imported, 8 were there, 1 were deleted from this log and stay out of it, 0 refused"
    assert said in capsys.readouterr().out
    with open_services(RunFolder(out)) as services:
        assert len(services.catalogue.episodes()) == 8


def test_an_episode_that_does_not_fit_is_named_and_holds_up_no_other(dataset, tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    damaged = shutil.copytree(dataset, tmp_path / "damaged")
    path = damaged / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    states = np.array(table.column("observation.state").to_pylist(), np.float32)
    states[np.array(table.column("episode_index").to_pylist()) == 2, 0] = np.nan
    index = table.column_names.index("observation.state")
    pq.write_table(table.set_column(index, "observation.state", pa.array(list(states))), path)
    with pytest.raises(SystemExit) as stop:
        importing(damaged, tmp_path / "run").run()
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert "8 episodes imported, 0 were there, 1 refused" in printed.out
    assert f"episode 2 of {damaged}: nan: proprio holds a value that is not finite." in printed.err


def test_a_data_set_that_does_not_fit_claims_no_folder(dataset, tmp_path):
    out = tmp_path / "run"
    for options, said in (
        ({"state": ("observation.stat",)}, "Did you mean 'observation.state'"),
        ({"tasks": ("near",)}, "--tasks has 'near', expected NAME=VALUE"),
        ({"low": (0.0,)}, "low and high belong together"),
    ):
        with pytest.raises(Exception, match=said) as refused:
            importing(dataset, out, **options).run()
        assert isinstance(refused.value, ConfigError) or "unknown" in str(refused.value)
    assert not out.exists()


def test_kinds_belong_to_the_format_that_needs_them(recorded, tmp_path):
    with pytest.raises(ConfigError, match="--kind belongs to --format lerobot"):
        LogExport(folder=tmp_path / "x", kind="line", out=recorded).run()
