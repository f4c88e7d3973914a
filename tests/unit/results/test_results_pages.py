"""The committed tables are those of the committed run files; what was not run is shown as missing."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import made_up
import pytest

from lwd.errors import ConfigError, UnknownNameError
from lwd.evaluate.intervals import Estimate
from lwd.evaluate.table import between
from lwd.results.board import ABLATIONS, Board, boards, label, read_board
from lwd.results.claims import _at_least, claims
from lwd.results.conditions import NOTHING as NO_CONDITIONS
from lwd.results.figures import CONDITIONS, pictures, write_figures
from lwd.results.markdown import benchmark_page
from lwd.results.pages import PAGE, README, SEARCH_PAGE, SUMMARY, WHAT_PAYS, pages, write_pages
from lwd.results.plan import BENCHMARKS, SEARCH, plain, rows_of
from lwd.results.readme import NOTHING, readme_part
from lwd.results.settings import settings

ROOT = Path(__file__).resolve().parents[3]
VARIED = [name for name, scope in BENCHMARKS.items() if scope.varies]
ALL, HALF, NONE = ({"near": [a] * 8, "far": [b] * 8} for a, b in ((1, 1), (1, 0), (0, 0)))


def board(*runs, benchmark="scene_evidence"):
    wanted = {row.name: 3 for row in rows_of(benchmark)}
    return Board(benchmark, wanted, list(runs))


# ---- what is committed -----------------------------------------------------------------------------------------------


def test_committed_tables_are_those_of_the_committed_run_files():
    for path, text in pages(boards(ROOT), read_board(ROOT, SEARCH), ROOT).items():
        assert (ROOT / path).exists(), f"{path} is missing: run `make table`"
        assert (ROOT / path).read_text(encoding="utf-8") == text, (
            f"{path} is not up to date: run `make table`"
        )


def test_figures_of_the_committed_run_files_are_there():
    for one in boards(ROOT):
        for picture in pictures(one):
            assert (ROOT / picture.path(one.benchmark)).exists(), "run `lwd results figures`"
    assert (ROOT / CONDITIONS).exists(), "run `lwd results figures`"


# ---- made-up runs ----------------------------------------------------------------------------------------------------


def test_summary_and_tables_hold_what_the_runs_say(tmp_path):
    root = made_up.write(
        tmp_path, [made_up.run("sft", s, HALF) for s in (0, 1)] + [made_up.run("lwd_online", 0, ALL)]
    )
    assert set(write_pages(root)) == {SUMMARY, PAGE, SEARCH_PAGE, WHAT_PAYS, README}
    assert write_pages(root) == [], "written again, nothing changes"
    found = json.loads((root / SUMMARY).read_text())["scene_evidence"]
    assert set(found) == {"sft", "lwd_online"}, "no row is invented"
    sft = found["sft"]
    assert (sft["average"]["success"], sft["short"]["success"], sft["long"]["success"]) == (0.5, 1.0, 0.0)
    assert sft["average"]["low"] <= 0.5 <= sft["average"]["high"]
    assert (sft["seeds"], sft["cycle_time_s"], sft["robot_hours"], sft["operator_minutes"]) == (
        2,
        15.0,
        0.0,
        0.0,
    )
    assert found["lwd_online"]["robot_hours"] == 5.5
    page = (root / PAGE).read_text()
    assert re.search(r"^\| SFT \| 2 of 5 \| 0\.50 \(0\.50 to 0\.50\) \|", page, re.MULTILINE)
    assert re.search(r"^\| RECAP online \| 0 of 3 \|( - \|)+$", page, re.MULTILINE)
    assert "| SFT | 0.50² (0.50-0.50) | 0.00² (0.00-0.00) |" in (root / README).read_text()
    assert "| LWD online - SFT | +0.50 (+0.50 to +0.50) |" in page
    assert re.search(
        r"^\| `sft` \|.*--only '\*/sft/\*'` \| `0123456789ab` \| Test CPU, 1 core \|", page, re.MULTILINE
    )
    assert (root / README).read_text().startswith("a\n")
    assert (root / README).read_text().endswith("b\n")


def test_without_runs_the_pages_say_so(tmp_path):
    root = made_up.write(tmp_path, [])
    write_pages(root)
    assert json.loads((root / SUMMARY).read_text()) == {
        "scene_evidence": {},
        "metaworld": {},
        "metaworld_hours": {},
        "metaworld50": {},
        **{name: {} for name in VARIED},
        "scene_hours": {},
    }
    assert "No run is committed yet." in (root / PAGE).read_text()
    assert "| yes |" not in (root / PAGE).read_text()


def test_the_fast_tier_has_tables_of_its_own(tmp_path):
    runs = [
        made_up.run("sft", 0, HALF, benchmark="metaworld"),
        made_up.run("awac_offline", 0, ALL, benchmark="metaworld"),
        made_up.run("lwd_online", 0, ALL, benchmark="metaworld50"),
    ]
    root = made_up.write(tmp_path, runs)
    write_pages(root)
    found = json.loads((root / SUMMARY).read_text())
    assert {name: set(rows) for name, rows in found.items()} == {
        "scene_evidence": set(),
        "metaworld": {"sft", "awac_offline"},
        "metaworld_hours": set(),
        "metaworld50": {"lwd_online"},
        **{name: set() for name in VARIED},
        "scene_hours": set(),
    }
    parts = (root / PAGE).read_text().split("\n## ")
    eight, fifty = (
        next(p for p in parts if p.startswith(f"{name}\n")) for name in ("metaworld", "metaworld50")
    )
    assert "| AWAC offline | 1 of 3 | 1.00" in eight
    assert "AWAC" not in fifty
    assert "| LWD online | 1 of 3 | 1.00" in fifty
    assert "`metaworld50`, one training seed: LWD online 1.00 (1.00-1.00).\n" in (root / README).read_text()
    assert "RECAP" not in fifty, "no claim about what the benchmark does not run"
    assert re.findall("^#### (.*)$", fifty, re.MULTILINE) == ["What deployment adds"]
    assert "| far | 0.00 | - | - |" in eight, "one line for each task: SFT, LWD offline, LWD online"
    readme = (root / README).read_text()
    assert "| method | `metaworld` | long |\n" in readme, (
        "no column for what has not begun, nor for what compares no methods"
    )
    assert "`scene_evidence` 0 of 61" in readme


def test_a_run_file_of_an_unknown_row_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'lwd_online'"):
        board(made_up.run("lwd_onlin"))


def test_a_run_from_before_an_option_is_averaged_with_one_after_it(tmp_path):
    whole = settings(plain("scene_evidence", 0), "offline")
    option = "offline.learner.qam.target_kl"
    assert whole[option] == "None"

    def mean_without(path):
        before = {name: value for name, value in whole.items() if name != path}
        runs = [made_up.run("lwd_offline", s, ALL, settings=of) for s, of in enumerate((before, whole))]
        return read_board(made_up.write(tmp_path / path, runs), "scene_evidence").scores["lwd_offline"]

    assert mean_without(option).seeds == [0, 1]


def test_a_run_that_the_planner_would_make_anew_is_in_no_table_and_that_is_said(tmp_path, caplog):
    """As `lwd results status` has it. Of a benchmark that has ended, what has run is what there is."""
    old = {**made_up.planned_settings("scene_evidence/lwd_online/seed_0"), "gamma": "0.5"}
    runs = [made_up.run("lwd_online", 0, ALL, settings=old), made_up.run("lwd_online", 1, ALL)]
    runs += [made_up.run("rft_online", seed, NONE) for seed in (0, 1)]
    ended = made_up.run("lwd_online", 0, ALL, settings=old, benchmark="scene_hours")
    root = made_up.write(tmp_path, [*runs, ended])
    found = read_board(root, "scene_evidence")
    assert [len(found.runs[row]) for row in ("lwd_online", "rft_online")] == [1, 2]
    assert found.paired("rft_online", "lwd_online").by_seed.keys() == {1}
    (said,) = caplog.records
    assert said.levelname == "WARNING"
    assert "scene_evidence/lwd_online/seed_0" in said.getMessage()
    assert "`lwd results run`" in said.getMessage()
    read_board(root, "scene_evidence")
    assert len(caplog.records) == 1, "once, though tables and figures both read it"
    assert len(read_board(root, "scene_hours").runs["lwd_online"]) == 1


def test_what_ran_names_settings_as_people_write_them(tmp_path):
    differs = {
        "sources": "(<Source.DEMO: 'demo'>, <Source.ROLLOUT: 'rollout'>) ((<Source.DEMO: 'demo'>,))",
        "rate": "0.7000000000000001 (0.1)",
        "takeover": "None (TakeoverRule)",
    }
    root = made_up.write(tmp_path, [made_up.run("rft_online", differs=differs)])
    write_pages(root)
    assert (
        "`sources` (demo, rollout) ((demo)); `rate` 0.7 (0.1); `takeover` None (TakeoverRule) |"
        in (root / PAGE).read_text()
    )


def test_what_ran_names_the_sft_policy_of_each_seed(tmp_path):
    runs = [
        made_up.run("lwd_online", s, sft_policy=name)
        for s, name in ((1, "aaaaaaaaaaaa"), (0, "bbbbbbbbbbbb"), (2, ""))
    ]
    root = made_up.write(tmp_path, [*runs, made_up.run("sft")])
    write_pages(root)
    page = (root / PAGE).read_text()
    assert re.search(r"^\| `lwd_online` \|.*\| 0: `bbbbbb`, 1: `aaaaaa` \|  \|$", page, re.MULTILINE)
    assert re.search(r"^\| `sft` \|.*\| - \|  \|$", page, re.MULTILINE)


def test_paired_differences_show_each_seed_and_whether_the_clone_is_one():
    before = [made_up.run("sft", s, HALF, sft_policy=name) for s, name in enumerate(("aa", "bb", ""))]
    after = [made_up.run("lwd_online", s, ALL, sft_policy=name) for s, name in enumerate(("aa", "cc", ""))]
    page = benchmark_page(board(*before, *after))
    assert re.search(
        r"^\| LWD online - SFT \|.*\| \+0\.50, \+0\.50, \+0\.50 \| 1 of 3 \|$", page, re.MULTILINE
    )
    page = benchmark_page(board(before[2], after[2]))
    assert re.search(r"^\| LWD online - SFT \|.*\| \+0\.50 \| - \|$", page, re.MULTILINE)


def test_the_readme_shows_what_has_run_and_the_page_everything():
    assert readme_part([board()]) == NOTHING
    begun = board(made_up.run("sft"))
    short, whole = readme_part([begun]), benchmark_page(begun)
    assert "| SFT | 0.50¹ (0.00-1.00) | 0.50¹ (0.00-1.00) |" in short
    assert "| LWD" not in short
    assert "`scene_evidence` 14 not measured." in short
    assert "| LWD online | 0 of 3 | - |" in whole
    assert "not measured" in whole


def test_the_readme_lays_benchmarks_side_by_side():
    rows = ("sft", "lwd_online", "rft_offline")
    scene_runs = [made_up.run(row, s, HALF) for row in rows for s in range(3)]
    gaining = [made_up.run("best_of_16_acting", s, ALL) for s in range(3)]
    scene = board(*scene_runs, *gaining)
    fast = board(
        made_up.run("lwd_online", 0, ALL), made_up.run("takeover_fails", 0, ALL), benchmark="metaworld"
    )
    lines = readme_part([scene, fast]).splitlines()
    of = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:]
        for line in lines
        if line.startswith("|")
    }
    assert of["LWD online"] == [
        "0.50 (0.50-0.50)",
        "0.00 (0.00-0.00)",
        "1.00¹ (1.00-1.00)",
        "1.00¹ (1.00-1.00) |",
    ]
    assert of["SFT"][2:] == ["-", "- |"]
    assert of["*LWD whose robots choose among 16 chunks*"][2:] == ["-", "- |"]
    assert "RFT offline" not in of, "the results page has them"
    assert list(of)[2:] == ["SFT", "LWD online", "*LWD whose robots choose among 16 chunks*"]
    told = next(line for line in lines if line.startswith("The paper's claims"))
    assert "`scene_evidence` 4 no, 1 not settled, 9 not measured; `metaworld` 2 on one seed, " in told
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_the_readme_compares_methods_where_several_have_run():
    scene = [made_up.run(row, s, HALF) for row in ("lwd_online", "rft_online", "sft") for s in range(3)]
    scene += [made_up.run("hg_dagger_online", s, NONE) for s in range(3)]
    scene += [made_up.run("takeover_fails", s, ALL) for s in range(2)]
    scene += [made_up.run("best_of_16_acting", 0, ALL)]  # one seed tells nothing apart
    fast = [made_up.run(row, 0, HALF, benchmark="metaworld") for row in ("lwd_online", "rft_online")]
    text = readme_part([board(*scene), board(*fast, benchmark="metaworld")])
    assert text.index("<details>") < text.index("minus RFT online") < text.index("</details>")
    lines = [
        line for line in text.splitlines() if line.startswith("|") and ("inus " in line or "short" in line)
    ]
    assert lines == [
        "| LWD online | `scene_evidence` | short | long |",
        "| minus RFT online | +0.00 (+0.00 to +0.00) | +0.00 | +0.00 |",
        "| minus HG-DAgger online | **+0.50 (+0.50 to +0.50)** | **+1.00** | +0.00 |",
        "| *LWD for which a takeover is a failure* minus LWD online "
        "| **+0.50² (+0.50 to +0.50)** | +0.00 | **+1.00** |",
    ]


def test_what_each_setting_changes_is_laid_side_by_side(tmp_path):
    fast = [made_up.run("lwd_online", s, HALF, benchmark="metaworld") for s in range(3)]
    fast += [made_up.run("fleet_1", s, NONE, benchmark="metaworld") for s in range(2)]
    hours = [made_up.run(row, 0, ALL, benchmark="metaworld_hours") for row in ("lwd_online", "fleet_1")]
    root = made_up.write(tmp_path, fast + hours + [made_up.run("lwd_online")])
    write_pages(root)
    lines = [line for line in (root / WHAT_PAYS).read_text().splitlines() if line.startswith("|")]
    assert lines == [
        "| change | metaworld | metaworld_hours |",
        "| --- | --- | --- |",
        "| Robots, online, same wall-clock: 1 instead of 16 "
        "| -0.50 (-0.50 to -0.50), long +0.00 (+0.00 to +0.00), 2 seeds "
        "| +0.00 (+0.00 to +0.00), long +0.00 (+0.00 to +0.00), 1 seed |",
    ]
    (fast_board,) = [one for one in boards(root) if one.benchmark == "metaworld"]
    assert "differences" in [picture.name for picture in pictures(fast_board)]
    assert "differences" not in [picture.name for picture in pictures(board(made_up.run("lwd_online")))]


def test_conditions_of_the_deployment_are_laid_side_by_side_and_nowhere_else(tmp_path):
    def three(benchmark, **successes):
        return [
            made_up.run(row, s, of, benchmark=benchmark) for row, of in successes.items() for s in range(3)
        ]

    runs = three("metaworld", sft=HALF, lwd_offline=HALF, lwd_online=ALL, hg_dagger_online=HALF)
    runs += three("metaworld_no_hurry", sft=ALL, lwd_offline=ALL, lwd_online=ALL)
    runs += three("metaworld_shifted", sft=NONE, lwd_offline=HALF, hg_dagger_online=HALF)
    runs += [made_up.run("lwd_online", 0, HALF)]  # of the scene, whose conditions nobody has varied yet
    root = made_up.write(tmp_path, runs)
    write_pages(root)
    whole = "1.00 (1.00 to 1.00), long 1.00 (1.00 to 1.00)"
    half = "0.50 (0.50 to 0.50), long 0.00 (0.00 to 0.00)"
    plus, nothing = half.replace("0.", "+0."), "+0.00 (+0.00 to +0.00), long +0.00 (+0.00 to +0.00)"
    text = (root / WHAT_PAYS).read_text()
    part = text[text.index("<!-- table:conditions -->") :]
    assert [line for line in part.splitlines() if line.startswith("|")] == [
        "| the deployment, not its demonstrations, has | nothing else (`metaworld_no_hurry`) "
        "| less time (`metaworld`) | other starts, less time (`metaworld_shifted`) |",
        "| --- | --- | --- | --- |",
        "| training seeds | 3 | 3 | 3 |",
        f"| SFT | {whole} | {half} | 0.00 (0.00 to 0.00), long 0.00 (0.00 to 0.00) |",
        f"| LWD offline | {whole} | {half} | {half} |",
        f"| LWD online | {whole} | {whole} | - |",
        f"| LWD offline minus SFT | {nothing} | {nothing} | {plus} |",
        f"| LWD online minus LWD offline | {nothing} "
        "| +0.50 (+0.50 to +0.50), long +1.00 (+1.00 to +1.00) | - |",
        "| LWD online minus HG-DAgger online | - | +0.50 (+0.50 to +0.50), long +1.00 (+1.00 to +1.00) | - |",
        "| seconds of an attempt at a long task: SFT, LWD offline, LWD online "
        "| 10.0, 10.0, 10.0 | 20.0, 20.0, 10.0 | 20.0, 20.0, - |",
    ]
    assert "metaworld_shifted" not in text[: text.index("<!-- table:conditions -->")]
    assert "metaworld_shifted" not in (root / README).read_text()
    page = (root / PAGE).read_text()
    own = page[page.index("\n## metaworld_no_hurry") :]
    own = own[: own.index("\n## ", 5)]
    assert "the deployment has nothing else." in own
    assert "### Claims" not in own
    assert page[page.index("\n## Conditions of the deployment") :].count("`metaworld_no_hurry`") == 1
    drawn = {path.name for path in write_figures(root)}
    assert "conditions.svg" in drawn
    assert not any(name.startswith(benchmark) for name in drawn for benchmark in VARIED)


def test_without_runs_under_other_conditions_there_is_no_picture_of_them(tmp_path):
    root = made_up.write(tmp_path, [made_up.run("sft", benchmark="metaworld")])
    assert "conditions.svg" not in {path.name for path in write_figures(root)}
    write_pages(root)
    assert NO_CONDITIONS in (root / WHAT_PAYS).read_text()


def test_a_readme_without_markers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"README\.md: expected one <!-- table:results -->"):
        between("text", "results", "new", "README.md")
    with pytest.raises(ConfigError, match="Run this in the root of a checkout"):
        write_pages(tmp_path)


def test_the_fast_tier_has_all_ablations_and_the_scene_those_of_its_own_rows():
    scene, fast = (board(benchmark=name).ablations for name in ("scene_evidence", "metaworld"))
    whole = {one.title: one for one in ABLATIONS}
    fewer = {one.title: set(whole[one.title].rows) - set(one.rows) for one in fast}
    assert {title: {row for _, row in rows} for title, rows in fewer.items() if rows} == {
        "Temperature, offline": {"temperature_2x"},
        "Interventions, online": {"patient_operators"},
    }
    assert set(whole) - {one.title for one in fast} == {
        "Beyond the paper: more turns and more of the fleet's hours"
    }
    assert [(one.title.split(":")[0], [row for _, row in one.rows]) for one in scene] == [
        ("What deployment adds", ["lwd_offline", "lwd_online"]),
        ("Value, offline (Table II)", ["lwd_offline", "iql_qam_offline"]),
        ("Value, online (Table II)", ["lwd_online", "iql_qam_online"]),
        ("Return window on short tasks, offline", ["lwd_offline", "n_step_10_short"]),
        ("Temperature, offline", ["lwd_offline", "temperature_2x"]),
        ("Beyond the paper", ["lwd_online", "takeover_fails"]),
        ("Beyond the paper", ["lwd_online", "takeover_fails_in_turns"]),
        ("Beyond the paper", ["lwd_online", "best_of_16_acting"]),
        ("Beyond the paper", ["best_of_n_online", "best_of_16_acting"]),
    ]
    assert [one.title for one in board(benchmark="metaworld50").ablations] == ["What deployment adds"]


def test_of_a_superseded_benchmark_what_has_run_is_all_that_is_wanted(tmp_path):
    rows = ("sft", "lwd_online", "patient_operators")
    root = made_up.write(tmp_path, [made_up.run(row, 0, HALF, benchmark="scene_hours") for row in rows])
    assert read_board(root, "scene_hours").wanted == dict.fromkeys(rows, 1)
    write_pages(root)
    page = (root / PAGE).read_text()
    part = page[page.index("\n## scene_hours") :]
    assert "Superseded by [scene_evidence](#scene_evidence)" in part
    assert "RECAP" not in part
    assert "after 5 s without a milestone, not 3" in part
    assert "scene_hours" not in (root / README).read_text()


def test_of_a_benchmark_that_has_ended_what_has_run_is_all_and_few_seeds_are_told_all_the_same(tmp_path):
    rows = ("sft", "lwd_online", "rft_online")
    root = made_up.write(tmp_path, [made_up.run(row, 0, HALF, benchmark="metaworld_hours") for row in rows])
    assert read_board(root, "metaworld_hours").wanted == dict.fromkeys(rows, 1)
    write_pages(root)
    page = (root / PAGE).read_text()
    part = page[page.index("\n## metaworld_hours") :]
    assert "Ended with fewer training seeds than the others" in part
    assert "| LWD online | 1 | 0.50 (" in part
    readme = (root / README).read_text()
    assert "| LWD online | 0.50¹ (" in readme
    assert "`metaworld_hours` 3, ended (30 were planned)" in readme


@pytest.mark.parametrize("benchmark", ["scene_evidence", "metaworld"])
def test_every_ablation_row_is_planned_and_every_planned_row_is_shown(benchmark):
    planned = {row.name for row in rows_of(benchmark)}
    shown = {row for ablation in board(benchmark=benchmark).ablations for _, row in ablation.rows}
    assert shown <= planned
    assert {row for row in planned if label(row) == row} <= shown


# ---- claims ----------------------------------------------------------------------------------------------------------


def words(found):
    return {claim.text: claim.found for claim in claims(found)}


def test_nothing_is_claimed_without_runs():
    assert set(words(board()).values()) == {"not measured"}
    assert all(not claim.measured for claim in claims(board()))


def test_claims_that_hold_and_claims_that_do_not():
    found = words(
        board(
            made_up.run("sft", 0, HALF),
            made_up.run("lwd_online", 0, ALL),
            made_up.run("hg_dagger_online", 0, HALF),
            made_up.run("rft_online", 0, ALL),
            made_up.run("lwd_offline", 0, HALF),
            made_up.run("rft_offline", 0, NONE),
            made_up.run("recap_offline", 0, HALF),
            made_up.run("awac_offline", 0, ALL),
        )
    )
    holds = {text: word for text, word in found.items() if word != "not measured"}
    assert holds == {
        "LWD online succeeds in at least 0.95 of the episodes, mean over all tasks": "yes",
        "LWD online succeeds in at least 0.90 of the episodes, mean over long tasks": "yes",
        "LWD online succeeds at least 0.15 more often than SFT, mean over all tasks": "yes",
        "LWD online succeeds at least 0.23 more often than SFT, mean over long tasks": "yes",
        "LWD online is above HG-DAgger online, and their intervals (all tasks, the seeds of both) do not overlap": "yes",
        "LWD online is above RFT online, and their intervals (all tasks, the seeds of both) do not overlap": "no",
        "LWD offline succeeds more often than SFT, mean over all tasks": "not settled",
        "LWD offline succeeds more often than RFT offline, mean over all tasks": "yes",
        "LWD offline succeeds more often than RECAP offline, mean over all tasks": "not settled",
        "LWD offline succeeds more often than AWAC offline, mean over all tasks": "no",
        "LWD online takes less time than SFT on long tasks (mean seconds, failures included)": "yes",
    }


@pytest.mark.parametrize(
    ("easy", "hard", "measured", "holds"),
    [
        (0, 1, "0.50 (0.50 to 0.50) against 0.50 (0.50 to 0.50)", "no"),
        (1, 0, "1.00 (1.00 to 1.00) against 0.50 (0.50 to 0.50)", "yes"),
        (0, 2, "", "not measured"),
    ],
)
def test_two_rows_are_told_apart_on_the_seeds_that_both_have(easy, hard, measured, holds):
    found = claims(
        board(
            made_up.run("lwd_online", easy, ALL),
            made_up.run("lwd_online", hard, HALF),
            made_up.run("rft_online", 1, HALF),
        )
    )
    (claim,) = (c for c in found if "above RFT online" in c.text)
    assert (claim.measured, claim.found) == (measured, holds)


def test_the_option_is_measured_by_the_same_targets_and_against_lwd_online():
    fast = partial(board, benchmark="metaworld")

    def one(row, success):
        return made_up.run(row, 0, success, benchmark="metaworld")

    claimed = [text for text in words(fast()) if "LWD whose robots choose among 16 chunks" in text]
    assert len(claimed) == 3
    found = words(fast(one("lwd_online", HALF), one("best_of_16_acting", ALL)))
    assert [found[text] for text in claimed] == ["yes", "yes", "yes"]
    found = words(fast(one("lwd_online", ALL), one("best_of_16_acting", HALF)))
    assert [found[text] for text in claimed] == ["no", "no", "no"]
    found = words(fast(one("lwd_online", ALL), one("best_of_16_acting", ALL)))
    assert [found[text] for text in claimed] == ["yes", "yes", "not settled"]
    assert not [text for text in words(fast(benchmark="metaworld50")) if "16 chunks" in text]


@pytest.mark.parametrize(
    ("low", "high", "holds"), [(0.95, 0.97, "yes"), (0.94, 0.96, "not settled"), (0.90, 0.94, "no")]
)
def test_a_target_within_the_interval_is_not_settled(low, high, holds):
    assert _at_least(Estimate((low + high) / 2, low, high), 0.95) == holds


def test_targets_that_are_missed_are_said_to_be_missed():
    found = claims(board(made_up.run("sft", 0, HALF), made_up.run("lwd_online", 0, HALF)))
    assert [claim.found for claim in found[:4]] == ["no"] * 4
    assert found[0].measured == "0.50 (0.50 to 0.50)"
    assert found[0].beside == "by the paper's score 0.75 (0.75 to 0.75)"


def test_one_training_seed_answers_nothing():
    def told(seeds):
        found = board(*(made_up.run(row, k, ALL) for row in ("sft", "lwd_online") for k in range(seeds)))
        return [claim.holds for claim in claims(found)[:4]]

    assert told(1) == ["on one seed"] * 4
    assert told(2) == ["yes", "yes", "no", "no"]


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_figures_are_drawn_from_what_is_there(tmp_path):
    assert pictures(board()) == []
    assert [p.name for p in pictures(board(made_up.run("sft", 0)))] == ["figure_5"]
    runs = [
        made_up.rich(row, s, 0.7, episodes=4) for row in ("sft", "lwd_offline", "lwd_online") for s in (0, 1)
    ]
    written = write_figures(made_up.write(tmp_path, runs))
    names = ["figure_5", "figure_5_fleet", "figure_6", "figure_8", "figure_9", "differences"]
    assert [path.stem.removeprefix("scene_evidence_") for path in written] == names
    for path in written:
        text = path.read_text()
        assert text.rstrip().endswith("</svg>")
        assert "#0a0b" not in text, "no stand-in colour is left"
