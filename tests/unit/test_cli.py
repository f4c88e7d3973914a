"""The command line: help worth reading, JSON on every read command, sentences and exit codes for mistakes, a quick start."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest
from log_cases import IDS

from lwd import cli
from lwd.log.tables import CATALOGUE_VERSION
from lwd.log.verify import VerifyReport

OPTIONS = {
    "demo": ["--recipe", "--seed", "--out"],
    "collect": ["--recipe", "--seed", "--out", "--catalogue", "--objects", "--sources"],
    "train sft": ["--recipe", "--seed", "--out", "--catalogue", "--objects"],
    "train offline": ["--recipe", "--seed", "--out", "--catalogue", "--objects"],
    "train consolidated": ["--recipe", "--seed", "--out", "--catalogue", "--objects"],
    "fleet up": [
        "--recipe",
        "--seed",
        "--out",
        "--broker",
        "--bus",
        "--robots",
        "--evaluator",
        "--promote-with",
        "--pace",
    ],
    "serve": ["--out", "--credential", "--host", "--port", "--token-file", "--new-token", "--room"],
    "evaluate": [
        "--recipe",
        "--seed",
        "--out",
        "--catalogue",
        "--objects",
        "--json",
        "sft",
        "offline",
        "online",
        "consolidated",
    ],
    "report": ["--out"],
    "log ls": ["--out", "--json", "--task", "--source", "--limit", "--quarantine"],
    "log show": ["--out", "--json", "EPISODE-ID"],
    "log verify": ["--out", "--json"],
    "log import": [
        "DATASET",
        "--recipe",
        "--out",
        "--source",
        "--outcome",
        "--low",
        "--high",
        "--tasks",
        "--cameras",
    ],
    "log export": [
        "FOLDER",
        "--format",
        "--kind",
        "--manifest",
        "--task",
        "--source",
        "--limit",
        "--catalogue",
        "--objects",
    ],
    "log quarantine": ["NUMBER", "--json", "--recipe", "--reason", "ls", "show", "release", "discard"],
    "log retain": ["--budget", "--yes", "--by", "--json"],
    "site-cache": ["FILE", "--folder", "--size", "--host", "--port"],
    "log delete": ["EPISODE-ID", "--reason", "--by", "--yes", "--catalogue", "--objects"],
    "log backup": ["FILE", "--out", "--catalogue"],
    "log restore": ["FILE", "--catalogue"],
    "log rescan": ["--out", "--json", "--recipe", "--also", "--yes"],
    "log migrate": ["--catalogue"],
    "fleet init": ["--name", "--server", "--out"],
    "fleet invite": ["NAME", "--role", "--spec", "--file", "--replace", "--out", "--catalogue"],
    "fleet revoke": ["NAME", "--out", "--catalogue"],
    "status": ["--out", "--catalogue", "--json"],
    "dashboard": ["--out", "--catalogue", "--host", "--port"],
    "doctor": ["--credential", "--guard", "--out", "--catalogue", "--objects"],
    "coordinator": [
        "--credential",
        "--bus",
        "--catalogue",
        "--objects",
        "--also",
        "--public-objects",
        "--follow",
        "--metrics-port",
    ],
    "learner": ["--credential", "--bus", "--catalogue", "--objects", "--recipe", "--out"],
    "evaluator": ["--credential", "--bus", "--every-s", "--episodes"],
    "robot join": [
        "FILE",
        "--out",
        "--environment",
        "--guard",
        "--pace",
        "--shared-folder",
        "--ca-file",
        "--site-cache",
        "--spool",
        "--policy-server",
        "--token-file",
    ],
    "promoter": [
        "--credential",
        "--bus",
        "--recipe",
        "--canaries",
        "--named",
        "--least",
        "--margin",
        "--distance",
    ],
    "snapshot rollback": [
        "NUMBER",
        "--out",
        "--catalogue",
        "--objects",
        "--credential",
        "--bus",
        "--newest",
        "--yes",
    ],
    "snapshot promote": ["NUMBER", "--out", "--catalogue", "--objects", "--credential", "--bus", "--yes"],
    "snapshot pin": ["ROBOT", "NUMBER", "--out", "--credential", "--bus", "--yes"],
    "snapshot unpin": ["ROBOT", "--out", "--credential", "--bus", "--yes"],
    "snapshot releases": ["--out", "--json", "--limit"],
    "snapshot ls": ["--out", "--json", "--limit"],
    "snapshot retain": ["--out", "--json", "--keep", "--also", "--yes"],
    "weights import": ["SOURCE", "OUT", "--proprio-dim", "--sizes"],
    "weights import-critic": [
        "OUT",
        "--gemma3",
        "--siglip",
        "--chunk-steps",
        "--action-dim",
        "--proprio-dim",
    ],
    "weights inspect": ["SOURCE", "--names", "--sizes"],
    "weights export": ["SOURCE", "OUT", "--layout", "--sizes", "--like", "--action-dim"],
    "plan": ["--model", "--stage", "--batch", "--gpus", "--gpu", "--lora-rank", "--remat", "--json"],
    "results run": ["--benchmark", "--only", "--out", "--results", "--jobs"],
    "results together": ["--benchmark", "--only", "--out", "--results"],
    "results status": ["--benchmark", "--only", "--out", "--results", "--json"],
    "results table": ["--root"],
    "results figures": ["--root", "--png"],
    "show": ["--recipe", "--seed"],
}


# ---- help ------------------------------------------------------------------------------------------------------------


def test_every_command_is_tested_here():
    assert set(OPTIONS) == set(cli.COMMANDS)


@pytest.mark.parametrize("command", OPTIONS)
def test_help_of_every_command_names_its_options_and_says_what_it_does(lwd, command):
    code, out, _ = lwd(*command.split(), "--help")
    assert code == 0
    for option in OPTIONS[command]:
        assert option in out, out
    purpose = cli.COMMANDS[command].__doc__.split(".")[0].split("\n")[0][:40]
    assert purpose in out


@pytest.mark.parametrize("command", OPTIONS)
def test_every_option_says_what_it_is(command):
    made = cli.COMMANDS[command]
    told = "\n".join(base.__doc__ or "" for base in made.__mro__)
    for field in dataclasses.fields(made):
        assert re.search(rf"^ +{field.name}: ", told, re.MULTILINE), f"lwd {command}: {field.name}"


@pytest.mark.parametrize(
    ("group", "verbs"),
    [
        ((), ["demo", "collect", "train sft", "fleet up", "evaluate", "log ls", "snapshot ls", "show"]),
        (("train",), ["sft", "offline"]),
        (("log",), ["ls", "show", "verify", "import", "export", "delete", "backup", "restore", "migrate"]),
        (("fleet",), ["up", "init", "invite", "revoke"]),
        (("robot",), ["join"]),
        (("snapshot",), ["ls", "rollback", "promote", "pin", "unpin", "releases", "retain"]),
        (("results",), ["run", "together", "status", "table", "figures"]),
    ],
)
def test_help_of_a_group_lists_its_verbs(lwd, group, verbs):
    code, out, _ = lwd(*group, "--help")
    assert code == 0
    for verb in verbs:
        assert verb in out


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_log_ls_lists_episodes_and_filters(lwd, run_folder):
    code, out, _ = lwd("log", "ls", "--out", run_folder, "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["episode_id"] for row in rows] == IDS
    assert [row["steps"] for row in rows] == [10, 11, 12]
    rows = json.loads(lwd("log", "ls", "--out", run_folder, "--json", "--source", "online")[1])
    assert [row["episode_id"] for row in rows] == IDS[1:]
    rows = json.loads(lwd("log", "ls", "--out", run_folder, "--json", "--limit", "1")[1])
    assert [row["episode_id"] for row in rows] == IDS[2:]
    assert json.loads(lwd("log", "ls", "--out", run_folder, "--json", "--task", "nothing")[1]) == []
    table = lwd("log", "ls", "--out", run_folder)[1]
    assert all(name in table for name in [*IDS, "stage_score", "drawer", "success"])
    assert re.search(r"│ *1\.00 *│", table), "two decimals"


def test_log_ls_quarantine_lists_what_was_refused_and_why(lwd, run_folder):
    rows = json.loads(lwd("log", "ls", "--out", run_folder, "--quarantine", "--json")[1])
    assert [(row["episode_id"], row["reason"]) for row in rows] == [("0199bb" + "e" * 26, "shape")]
    assert "4" in rows[0]["detail"]
    assert "shape" in lwd("log", "ls", "--out", run_folder, "--quarantine")[1]


def test_log_show_takes_the_first_characters_of_an_id(lwd, run_folder):
    code, out, _ = lwd("log", "show", IDS[1][:8], "--out", run_folder, "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["episode_id"] == IDS[1]
    assert (facts["proprio"], facts["actions"]) == ([12, 6], [11, 3])
    text = lwd("log", "show", IDS[1][:8], "--out", run_folder)[1]
    assert IDS[1] in text


def test_log_verify_reads_everything_again(lwd, run_folder):
    code, out, _ = lwd("log", "verify", "--out", run_folder, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["episodes"], report["problems"]) == (3, [])
    assert set(report) == set(VerifyReport.__dataclass_fields__)
    assert re.search(r"^problems +none$", lwd("log", "verify", "--out", run_folder)[1], re.MULTILINE)


def test_log_verify_exits_with_1_where_an_episode_is_damaged(lwd, run_folder):
    victim = next((run_folder / "objects" / "episodes" / IDS[0]).iterdir())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    code, out, _ = lwd("log", "verify", "--out", run_folder, "--json")
    assert code == 1
    problem = json.loads(out)["problems"][0]
    assert (problem["episode_id"], problem["reason"]) == (IDS[0], "hash")
    assert f"episode_id {IDS[0]}, " in lwd("log", "verify", "--out", run_folder)[1]


def test_log_migrate_says_what_it_did(lwd, run_folder):
    code, out, _ = lwd("log", "migrate", "--catalogue", str(run_folder / "catalogue.db"))
    assert code == 0
    assert out == f"schema version {CATALOGUE_VERSION} -> {CATALOGUE_VERSION}\n"


def test_log_delete_shows_the_lineage_first_and_deletes_when_told(lwd, run_folder):
    asked = [
        "log",
        "delete",
        IDS[1][:8],
        "--reason",
        "a face is in it",
        "--by",
        "ann",
        "--out",
        run_folder,
        "--json",
    ]
    code, out, err = lwd(*asked)
    assert code == 0
    assert json.loads(out)["episode_id"] == IDS[1]
    assert "nothing was deleted" in err
    assert len(json.loads(lwd("log", "ls", "--out", run_folder, "--json")[1])) == 3
    gone = json.loads(lwd(*asked, "--yes")[1])
    assert (gone["reason"], gone["deleted_by"]) == ("a face is in it", "ann")
    assert gone["object_deleted_at"] is not None
    assert [r["episode_id"] for r in json.loads(lwd("log", "ls", "--out", run_folder, "--json")[1])] == [
        IDS[0],
        IDS[2],
    ]
    assert not list((run_folder / "objects" / "episodes" / IDS[1]).glob("*"))


def test_log_backup_is_restored_into_an_empty_catalogue(lwd, run_folder, tmp_path):
    copy, new = tmp_path / "copy.db", tmp_path / "new.db"
    assert lwd("log", "backup", str(copy), "--out", run_folder)[0] == 0
    code, out, _ = lwd("log", "restore", str(copy), "--catalogue", str(new))
    assert code == 0
    assert "3 episodes restored" in out
    # Another catalogue over the same objects: everything is there and intact.
    objects = str(run_folder / "objects")
    code, out, _ = lwd("log", "verify", "--catalogue", str(new), "--objects", objects, "--json")
    assert (code, json.loads(out)["episodes"]) == (0, 3)
    code, _, err = lwd("log", "restore", str(copy), "--catalogue", str(new))
    assert code == 2
    assert "not empty" in err


def test_status_counts_and_says_that_no_fleet_ran_here(lwd, run_folder):
    found = json.loads(lwd("status", "--out", run_folder, "--json")[1])
    assert (found["episodes"], found["quarantined"], found["processes"]) == (3, 1, [])
    assert "an embedded run (lwd demo) has no processes to show" in found["stalls"][0]
    assert "an embedded run (lwd demo) has no processes to show" in lwd("status", "--out", run_folder)[1]


def test_doctor_is_content_with_a_good_folder_and_names_what_is_broken(lwd, run_folder, tmp_path):
    code, out, _ = lwd("doctor", "--out", run_folder)
    assert code == 0, out
    assert all(f"good  {what}" in out for what in ("disk", "catalogue", "versions", "clocks", "objects"))
    code, out, _ = lwd("doctor", "--credential", str(tmp_path / "none.json"))
    assert code == 1
    assert "lwd fleet invite" in out
    code, _, err = lwd("doctor")
    assert code == 2
    assert "--credential" in err


def test_reading_makes_no_keys(lwd, run_folder):
    before = sorted(path.name for path in run_folder.rglob("*.pem"))
    lwd("log", "ls", "--out", run_folder)
    lwd("snapshot", "ls", "--out", run_folder)
    assert sorted(path.name for path in run_folder.rglob("*.pem")) == before


@pytest.mark.parametrize("service", ["coordinator", "learner", "promoter", "evaluator"])
def test_a_service_without_a_bus_says_what_it_needs(lwd, service):
    code, _, err = lwd(service)
    assert code == 2
    assert "--credential" in err
    assert "--bus" in err


def test_snapshot_ls(lwd, run_folder):
    rows = json.loads(lwd("snapshot", "ls", "--out", run_folder, "--json")[1])
    assert [(row["number"], row["learner_step"], row["stage"]) for row in rows] == [
        (1, 50, "online"),
        (2, 100, "online"),
    ]
    rows = json.loads(lwd("snapshot", "ls", "--out", run_folder, "--json", "--limit", "1")[1])
    assert [row["number"] for row in rows] == [2]
    assert "learner_step" in lwd("snapshot", "ls", "--out", run_folder)[1]


def test_show_prints_a_recipe_whole(lwd):
    code, out, _ = lwd("show", "--recipe", "metaworld", "--seed", "7")
    assert code == 0
    assert "Experiment(" in out
    assert "seed=7" in out


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_recipe_names_the_nearest(lwd, tmp_path):
    code, out, err = lwd("train", "sft", "--recipe", "sceen", "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert err.startswith("lwd: unknown recipe 'sceen'. Did you mean 'scene'? Known: metaworld, ")


@pytest.mark.parametrize("command", ["log ls", "log show x", "log verify", "snapshot ls"])
def test_reading_a_folder_without_a_run_is_refused_and_makes_nothing(lwd, tmp_path, command):
    code, out, err = lwd(*command.split(), "--out", tmp_path / "nothing")
    assert (code, out) == (2, "")
    assert err.startswith(f"lwd: {tmp_path / 'nothing'} is no run folder: it has no catalogue.db.")
    assert not (tmp_path / "nothing").exists()


def test_an_id_that_fits_several_episodes_or_none_is_refused(lwd, run_folder):
    code, out, err = lwd("log", "show", "0199aa", "--out", run_folder)
    assert (code, out) == (2, "")
    assert "several episodes begin with '0199aa'" in err
    assert "give more characters" in err
    code, _, err = lwd("log", "show", "ffff", "--out", run_folder)
    assert code == 2
    assert err == "lwd: no episode begins with 'ffff'; `lwd log ls` lists them.\n"


def test_evaluating_before_training_says_what_to_run(lwd, run_folder):
    code, _, err = lwd("evaluate", "offline", "--recipe", "metaworld", "--out", run_folder)
    assert code == 2
    assert "Make it first: lwd train offline." in err


def test_an_unknown_command_and_a_missing_verb_end_with_usage(lwd):
    for arguments in (["fly"], ["log"], ["log", "fly"], ["train"]):
        code, out, err = lwd(*arguments)
        assert code == 2, arguments
        assert "lwd" in out + err


def test_ctrl_c_says_that_the_same_command_goes_on(lwd, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.stages.Show, "run", interrupted)
    code, _, err = lwd("show")
    assert code == 130
    assert "run the same command again to go on" in err


@pytest.mark.parametrize("command", ["log ls", "log ls --json", "show --recipe scene", "show --help"])
def test_a_reader_that_has_seen_enough_gets_no_traceback(run_folder, command):
    """A table, JSON, a long text and help, each through a real pipe whose other end is closed."""
    where = ["--out", str(run_folder)] if command.startswith("log") else []
    read, write = os.pipe()
    os.close(read)
    try:
        arguments = [sys.executable, "-m", "lwd.cli", *command.split(), *where]
        done = subprocess.run(arguments, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_that_is_not_the_output_is_an_error(run_folder):
    code = "from lwd import cli\ndef broken(self): raise BrokenPipeError('a socket')\ncli.stages.Show.run = broken\ncli.main()"
    done = subprocess.run([sys.executable, "-c", code, "show"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "BrokenPipeError: a socket" in done.stderr


# ---- quick start -----------------------------------------------------------------------------------------------------

HEAVY = ("jax", "equinox", "optax", "orbax", "matplotlib", "mujoco", "gymnasium")
WATCH = f"""
import sys
sys.argv = ["lwd"] + sys.argv[1:]
from lwd.cli import main
try:
    main()
except SystemExit:
    pass
print("imported:", [name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize("command", ["log ls", "log verify", "log show 0199aa01", "snapshot ls", "--help"])
def test_reading_imports_no_jax(run_folder, command):
    """What a robot computer can run, and what a person wants to be quick."""
    out = [] if command == "--help" else ["--out", str(run_folder)]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *command.split(), *out], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "imported: []", done.stderr


# ---- plan ------------------------------------------------------------------------------------------------------------


def test_plan_prints_table_and_verdict(lwd):
    code, out, _ = lwd("plan", "--model", "dummy", "--batch", "8", "--gpu", "h100", "--remat")
    assert code == 0
    assert all(
        words in out for words in ("policy, AdamW moments", "lean adjoint", "sum at the peak", "fits: ")
    )
    found = json.loads(lwd("plan", "--model", "dummy", "--batch", "8", "--json")[1])
    assert found["request"]["batch"] == 8
    assert found["fits"] is True
    code, _, err = lwd("plan", "--gpu", "h300")
    assert code == 2
    assert "unknown GPU 'h300'. Did you mean 'h200'?" in err
