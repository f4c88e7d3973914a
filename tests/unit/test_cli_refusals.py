"""What the command line refuses, and that it makes nothing and loses nothing when it does."""

import contextlib
import inspect
import io
import json
import sqlite3

import pytest
from log_cases import IDS, make_episode, open_fleet
from rich.console import Console

from lwd.errors import ConfigError
from lwd.fleet.doctor import Finding, print_findings
from lwd.fleet.phases import check_goes_on, claim
from lwd.recipes import RECIPES


def test_texts_of_robots_are_shown_as_they_are(lwd, tmp_path):
    """Square brackets begin rich's markup; a closing one without an opening one is an error of its own."""
    with open_fleet(tmp_path) as fleet:
        fleet.send_episode(make_episode(5, episode_id=IDS[0], task="pick[/left][red]"))
        fleet.drain()
    for command in (["log", "ls", "--quarantine"], ["log", "quarantine"]):
        code, out, _ = lwd(*command, "--out", tmp_path)
        assert code == 0
        assert "pick[/left][red]" in out
    shown = io.StringIO()
    print_findings(Console(file=shown, width=200), [Finding("versions", False, "r[/1] 0.1", "ask [/ann]")])
    assert "r[/1] 0.1" in shown.getvalue()
    assert "ask [/ann]" in shown.getvalue()


@pytest.mark.parametrize("command", ["log ls", "log ls --quarantine", "snapshot ls"])
def test_a_limit_of_zero_shows_nothing_and_one_below_is_refused(lwd, run_folder, command):
    listing = [*command.split(), "--json", "--out", run_folder, "--limit"]
    assert json.loads(lwd(*listing, "0")[1]) == []
    assert len(json.loads(lwd(*listing, "1")[1])) == 1
    assert len(json.loads(lwd(*listing, "99")[1])) in (1, 2, 3)
    code, out, err = lwd(*listing, "-1")
    assert (code, out) == (2, "")
    assert "--limit is -1; expected 0 or more" in err


def test_an_export_below_nothing_is_refused(lwd, run_folder, tmp_path):
    code, _, err = lwd("log", "export", tmp_path / "copy", "--out", run_folder, "--limit", "-1")
    assert code == 2
    assert "--limit" in err
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize(
    "command",
    [
        "log ls",
        "log show x",
        "log verify",
        "log backup copy.db",
        "log export copy",
        "log migrate",
        "snapshot ls",
        "snapshot retain --keep 1",
        "status",
        "dashboard",
    ],
)
@pytest.mark.parametrize("typo", ["deep/typo.db", "sqlite:///deep/typo.db"])
def test_a_catalogue_that_does_not_exist_is_refused_and_not_made(lwd, tmp_path, monkeypatch, command, typo):
    monkeypatch.chdir(tmp_path)
    code, out, err = lwd(*command.split(), "--catalogue", typo)
    assert (code, out) == (2, "")
    assert "there is no catalogue" in err
    assert "typo.db" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 4096])
@pytest.mark.parametrize("command", ["log ls", "log migrate", "status"])
def test_a_file_without_tables_is_no_catalogue_and_stays_as_it_is(lwd, tmp_path, command, size):
    """What a catalogue that was misspelt once left behind."""
    file = tmp_path / "typo.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        if size:
            connection.execute("PRAGMA journal_mode=WAL")
    before = file.read_bytes()
    assert len(before) == size
    code, out, err = lwd(*command.split(), "--catalogue", file)
    assert (code, out) == (2, "")
    assert f"there is no catalogue {str(file)!r}: the file holds no tables" in err
    assert file.read_bytes() == before


@pytest.mark.parametrize("command", ["log show x", "log verify", "log export copy", "log retain --budget 1M"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_objects_that_do_not_exist_are_refused_and_not_made(
    lwd, run_folder, tmp_path, monkeypatch, command, scheme
):
    monkeypatch.chdir(tmp_path)
    nowhere = tmp_path / "no where"
    code, out, err = lwd(*command.split(), "--out", run_folder, "--objects", f"{scheme}{nowhere}")
    assert (code, out) == (2, "")
    assert "there is no folder of objects" in err
    assert not nowhere.exists()


def test_listing_a_catalogue_of_its_own_makes_no_objects(lwd, run_folder, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    catalogue = str(run_folder / "catalogue.db")
    assert len(json.loads(lwd("log", "ls", "--catalogue", catalogue, "--json")[1])) == 3
    assert lwd("log", "backup", "copy.db", "--catalogue", catalogue)[0] == 0
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["copy.db"]


def test_verify_of_a_run_folder_without_objects_names_each_episode(lwd, run_folder):
    """Not refused: an invitation alone makes a catalogue and no objects, and there is nothing wrong with that."""
    (run_folder / "objects").rename(run_folder / "elsewhere")
    code, out, _ = lwd("log", "verify", "--out", run_folder, "--json")
    assert code == 1
    assert {problem["reason"] for problem in json.loads(out)["problems"]} == {"missing"}


def test_log_show_tells_a_damaged_file_from_an_intact_one(lwd, run_folder):
    shown = ["log", "show", IDS[0], "--out", run_folder, "--json"]
    assert json.loads(lwd(*shown)[1])["damage"] is None
    file = next((run_folder / "objects" / "episodes" / IDS[0]).iterdir())
    file.write_bytes(file.read_bytes() + b" ")  # it can still be decoded
    code, out, _ = lwd(*shown)
    facts = json.loads(out)
    assert code == 1
    assert facts["damage"].startswith("hash: ")
    assert facts["episode_id"] == IDS[0], "what the catalogue knows is shown all the same"


def test_an_episode_that_is_still_refused_is_no_success(lwd, run_folder):
    """Its robot is none of the recipe's."""
    release = ["log", "quarantine", "release", "1", "--recipe", "metaworld_quick", "--out", run_folder]
    code, out, err = lwd(*release)
    assert (code, out) == (1, "")
    assert err.startswith("still refused: ")
    together = ["log", "quarantine", "release", "--reason", "spec", *release[4:]]
    code, out, err = lwd(*together)
    assert (code, out, err) == (1, "", "0 released, 1 still refused\n")
    code, _, err = lwd("log", "quarantine", "release", "1", "--reason", "shape", "--out", run_folder)
    assert (code, "in place of a number" in err) == (2, True)


def test_doctor_looks_at_a_folder_that_is_not_there_and_makes_nothing(lwd, tmp_path):
    code, out, _ = lwd("doctor", "--out", tmp_path / "typo")
    assert code == 1
    assert "bad   catalogue: there is no catalogue" in out
    assert "bad   objects: there is no folder of objects" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [{"certificate": "junk"}, {"servers": []}, {"servers": ["nonsense::"]}])
def test_doctor_says_what_is_wrong_with_a_damaged_credential(lwd, tmp_path, damage):
    texts = dict.fromkeys(("fleet", "name", "id", "ca", "certificate", "key", "snapshot_key"), "junk")
    whole = {"version": 1, **texts, "role": "robot", "servers": ["tls://127.0.0.1:1"], "expires_at": 4e9}
    file = tmp_path / "arm.json"
    file.write_text(json.dumps(whole | damage))
    file.chmod(0o600)
    code, out, _ = lwd("doctor", "--credential", file)
    assert code == 1
    assert "good  credential" in out
    assert "bad   broker" in out
    assert "lwd fleet invite NAME --replace" in out


def test_a_guard_that_cannot_be_read_is_refused_before_anything_is_joined(lwd, tmp_path):
    texts = dict.fromkeys(("fleet", "name", "id", "ca", "certificate", "key", "snapshot_key"), "junk")
    file, guard = tmp_path / "arm.json", tmp_path / "guard.json"
    found = {"version": 1, **texts, "role": "robot", "servers": ["tls://127.0.0.1:1"], "expires_at": 4e9}
    file.write_text(json.dumps(found))
    file.chmod(0o600)
    guard.write_text('{"hold": 0, "hihg": 0.5}')
    out = tmp_path / "out"
    code, _, err = lwd("robot", "join", file, "--guard", guard, "--out", out)
    assert code == 2
    assert f"guard '{guard}': unknown limit 'hihg'. Did you mean 'high'?" in err
    assert not out.exists()
    code, shown, _ = lwd("doctor", "--guard", guard)
    assert code == 1
    assert "bad   guard: guard " in shown
    guard.write_text('{"hold": "last", "high": [0.5, 0.5]}')
    code, shown, _ = lwd("doctor", "--guard", guard)
    assert (code, shown.count("good  guard: ")) == (0, 1)


def test_show_without_a_name_lists_the_recipes(lwd):
    code, out, _ = lwd("show")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    for line, make in zip(lines, RECIPES.values(), strict=True):
        assert line.endswith(inspect.getdoc(make).splitlines()[0])


def test_a_stage_in_a_folder_that_is_not_there_is_refused_and_makes_nothing(lwd, tmp_path):
    typo = tmp_path / "typo"
    for command in ("evaluate sft", "train offline", "train consolidated", "fleet up", "serve"):
        code, out, err = lwd(*command.split(), "--recipe", "metaworld_quick", "--out", typo)
        assert (code, out) == (2, ""), command
        assert err.startswith(f"lwd: {typo} is no run folder"), command
    code, out, err = lwd("train", "sft", "--out", typo, "--processes", "2")
    assert (code, out) == (2, "")
    assert err.startswith(f"lwd: no demonstrations in {typo} yet; make them first: lwd collect --out {typo}")
    assert list(tmp_path.iterdir()) == []


def test_cloning_without_demonstrations_says_what_makes_them(lwd, run_folder):
    """Those that are there are of another kind of robot."""
    code, _, err = lwd("train", "sft", "--recipe", "metaworld_quick", "--out", run_folder)
    assert code == 2
    assert f"no demonstrations in {run_folder} yet; make them first: lwd collect" in err
    assert not (run_folder / "replay").exists()


@pytest.mark.parametrize(
    "command", ["collect", "train sft", "train offline", "evaluate sft", "fleet up", "demo", "serve"]
)
def test_a_recipe_that_was_forgotten_is_named(lwd, run_folder, command):
    mine = "lwd demo --recipe metaworld_quick --out q"
    claim(run_folder, repr(RECIPES["metaworld_quick"](3)), mine, 3)
    before = sorted(run_folder.rglob("*"))
    code, out, err = lwd(*command.split(), "--out", run_folder)
    assert (code, out) == (2, "")
    assert f"{run_folder} holds the run 'metaworld_quick' with seed 3 ({mine})" in err
    assert "Add --recipe metaworld_quick, or choose another --out." in err
    err = lwd(*command.split(), "--out", run_folder, "--recipe", "metaworld_quick")[2]
    assert "Add --seed 3, or" in err
    assert sorted(run_folder.rglob("*")) == before


def test_a_recipe_that_goes_on_with_the_run_is_none_of_another(tmp_path):
    claim(tmp_path, repr(RECIPES["scene"](0)), "lwd collect", 0)
    for name in ("scene", "scene_once_more", "scene_refitted_once_more", "scene_in_turns"):
        begins_alike = RECIPES[name](0)
        check_goes_on(tmp_path, begins_alike)
        with pytest.raises(ConfigError, match="Add --seed 0"):
            check_goes_on(tmp_path, RECIPES[name](1))
    with pytest.raises(ConfigError, match="Add --recipe scene,"):
        check_goes_on(tmp_path, RECIPES["scene_quick"](0))
