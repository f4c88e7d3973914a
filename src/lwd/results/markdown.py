"""The parts of the results pages as markdown, each from one benchmark's rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lwd.results.board import Board, label
from lwd.results.claims import Claim, claims
from lwd.results.conditions import conditions_table, groups
from lwd.results.figures import CONDITIONS, pictures
from lwd.results.runfile import RunFile
from lwd.results.scores import AVERAGES
from lwd.results.text import MISSING, counted, show, table

PAGE_HEAD = """# Results

Written by `make table` from the run files in `results/runs`, and from nothing else; a test fails when the two disagree. A
dash is a row that has not been run. `lwd results status` says what is left, `make results` runs it.

How to read the numbers:

- **Success** is the share of held-out episodes judged a success; an average is the mean of task means. The **paper's score**
  is that of its Table I: success on short tasks, milestones reached / total on long ones. **Cycle time** is in seconds of
  robot time, over all episodes, failures included.
- **Brackets** hold 95 % intervals: the middle of a bootstrap that draws training seeds with replacement and, within each
  task, held-out starts with replacement; a drawn start counts for every drawn seed, since all seeds are evaluated on the same
  starts. They cover luck of the starts, and luck in training as far as the seeds show it: in a simulation with the spread that
  our seeds have, intervals of five, three, two and one seed held the mean in 95, 90, 86 and 63 % of cases
  (`python -m tools.coverage`). They do not cover the choice of tasks, simulator and settings.
- **Paired differences** compare two rows attempt by attempt: same training seed, same task, same start; each seed's own is
  beside the interval. Rows of a seed go on from one SFT policy (one clone) and one set of rollouts where they ran in one
  folder. A row that was run later, on a machine that had neither any more, went on from a policy that the same command had
  trained anew on the same demonstrations, which is not the same bit for bit. *One clone* says for how many seeds the two rows
  have the same policy, a dash that their files, from before it was kept, do not tell; "what ran" names it. Other differences
  hold the luck of two clones: two runs of one thing, each with its own, came out up to 0.04 apart on the fast tier (see "two
  runs of the same") and 0.06 on the scene (decision 0025).
- **Random numbers.** Until commit `f6f59f2` online stages, turns and learning once more drew the numbers of the offline stage
  again. From before it are, on the scene, the online rows of seeds 0 to 2 but RFT's, AWAC's and seed 2 of HG-DAgger, RECAP and
  IQL; all of `metaworld_hours` and `scene_hours`; of the fast tier all but the rows with n = 10 on short tasks, those of a
  takeover as a failure, `as_the_paper_online`, `frozen_in_turns`, `choosing_in_turns`, `lwd_refitted_once_more`, and seed 2 of
  `refitted_in_turns`.
- **LWD** is the paper's algorithm at the recipe's settings. Online two of them are not the paper's: returns over n = 10 chunks
  on long tasks, where it has 1, and `tau_base` 0.6, where it has 0.9; "what deployment adds" has n = 1.
- **Claims** are answered by their interval: *yes* if all of it is on the claim's side, *no* if none of it is, else *not
  settled*. Whether two intervals overlap is *yes* or *no* at once. *On one seed* answers nothing.
- **Robot-hours, interventions, operator minutes** are what the online stage took, mean over seeds.
"""


_MAIN_HEAD = (
    *("method", "seeds", "all", "short", "long", "paper's score", "cycle time", "cycle time, long"),
    *("robot-hours", "interventions", "operator minutes"),
)


def _main_line(board: Board, row: str) -> list[str]:
    seeds = str(len(board.runs[row])) + ("" if board.ended else f" of {board.wanted[row]}")
    if row not in board.scores:
        return [label(row), seeds, *[MISSING] * (len(_MAIN_HEAD) - 2)]
    score = board.scores[row]
    means = score.means
    return [
        label(row),
        seeds,
        *(show(means[name].success) if name in means else MISSING for name in AVERAGES),
        f"{means['average'].paper_score.value:.2f}",
        f"{means['average'].cycle_time_s.value:.1f}",
        f"{means['long'].cycle_time_s.value:.1f}" if "long" in means else MISSING,
        f"{score.robot_hours:.1f}",
        f"{score.interventions:.0f}",
        f"{score.operator_minutes:.0f}",
    ]


def _claims_table(shown: Sequence[Claim]) -> str:
    lines = [
        [
            claim.text,
            "; ".join(filter(None, (claim.measured, claim.beside))) or MISSING,
            str(claim.seeds or MISSING),
            "**no**" if claim.holds == "no" else claim.holds,
        ]
        for claim in shown
    ]
    return table(["claim", "measured", "seeds", "holds"], lines, left=4)


def benchmark_page(board: Board) -> str:
    """Everything about one benchmark."""
    parts = [
        (f"## {board.benchmark}", _how_it_stands(board)),
        ("### Methods", table(_MAIN_HEAD, [_main_line(board, row) for row in board.methods])),
        *([] if board.varies else [("### Claims", _claims_table(claims(board)))]),
        ("### Success per task", _per_task(board, board.methods)),
        ("### Paired differences in success", _differences(board)),
        *([] if board.varies else [("### Figures", _figures(board))]),
        *([("### Ablations", "\n".join(_ablations(board)))] if board.ablations else []),
        ("### What ran", provenance(board)),
    ]
    return "\n".join(f"{title}\n\n{content}" if content else f"{title}\n" for title, content in parts)


def conditions_part(found: Sequence[Board]) -> str:
    """All conditions of the deployment that were varied, side by side."""
    picture = f"![Conditions](../{CONDITIONS.relative_to('docs')})\n\n" if groups(found) else ""
    return f"## Conditions of the deployment\n\n{picture}{conditions_table(found)}"


def _how_it_stands(board: Board) -> str:
    if board.varies:
        return (
            f"[{board.varies}](#{board.varies}) under other conditions: against the demonstrations the deployment has "
            f"{board.conditions}. Beside the others: [conditions of the deployment](#conditions-of-the-deployment).\n"
        )
    if board.superseded_by:
        return f"Superseded by [{board.superseded_by}](#{board.superseded_by}); its runs stay, and no more are planned.\n"
    if board.ended:
        more = f"`lwd results run --benchmark {board.benchmark}`"
        return (
            f"Ended with fewer training seeds than the others, for want of machine time; {more} adds them.\n"
        )
    return ""


def _per_task(board: Board, names: Sequence[str]) -> str:
    tasks = next((list(runs[0].tasks) for runs in board.runs.values() if runs), [])
    if not tasks:
        return "No run is committed yet.\n"
    lines = [
        [
            task,
            *(
                f"{board.scores[row].means[task].success.value:.2f}" if row in board.scores else MISSING
                for row in names
            ),
        ]
        for task in tasks
    ]
    return table(["task", *map(label, names)], lines)


def _differences(board: Board) -> str:
    stages = {
        stage: [row for row in board.methods if row.endswith(stage)] for stage in ("_offline", "_online")
    }
    pairs = [("sft", "lwd_offline"), ("sft", "lwd_online"), ("lwd_offline", "lwd_online")]
    pairs += [
        (row, f"lwd{stage}") for stage, names in stages.items() for row in names if row != f"lwd{stage}"
    ]
    lines = [
        [f"{label(above)} - {label(below)}", *_difference_cells(board, below, above)]
        for below, above in pairs
    ]
    head = ["difference", "all", "short", "long", "cycle time, long", "all, seed by seed", "one clone"]
    return table(head, lines)


def _difference_cells(board: Board, below: str, above: str) -> list[str]:
    found = board.paired(below, above)
    if found is None:
        return [MISSING] * 6
    means = found.means
    return [
        *(show(means[name].success, sign=True) if name in means else MISSING for name in AVERAGES),
        show(means["long"].cycle_time_s, sign=True, digits=1) if "long" in means else MISSING,
        ", ".join(f"{difference:+.2f}" for difference in found.by_seed.values()),
        _one_clone(list(found.one_clone.values())),
    ]


def _one_clone(by_seed: Sequence[bool | None]) -> str:
    """In how many seeds both rows went on from the same SFT policy."""
    if all(one is None for one in by_seed):
        return MISSING
    return f"{sum(one is True for one in by_seed)} of {len(by_seed)}"


def _figures(board: Board) -> str:
    found = [
        f"![{picture.caption.split(':')[0]}](../{picture.path(board.benchmark).relative_to('docs')})\n\n{picture.caption}\n"
        for picture in pictures(board)
    ]
    return "\n".join(found) or "No run is committed yet.\n"


def _ablations(board: Board) -> Iterator[str]:
    for ablation in board.ablations:
        lines: list[list[str]] = []
        for setting, row in ablation.rows:
            line = _main_line(board, row)
            same = row == ablation.against
            cells = _difference_cells(board, ablation.against, row)
            paired = ["0", MISSING] if same else [cells[0], cells[-1]]
            lines.append([setting, *paired, *line[1:]])
        head = ["setting", f"all, minus {label(ablation.against)}, paired", "one clone", *_MAIN_HEAD[1:]]
        yield f"#### {ablation.title}\n\n{table(head, lines)}"


def provenance(board: Board) -> str:
    """Command, commit and machine of every row."""
    lines = [[f"`{row}`", *_made_by(runs, board.benchmark)] for row, runs in board.runs.items() if runs]
    if not lines:
        return "No run is committed yet.\n"
    own = "settings of its own (the benchmark's)"
    head = ["row", "command", "commit", "hardware", "jax", "minutes per run", "SFT policy of each seed", own]
    hours = sum(run.wall_s for runs in board.runs.values() for run in runs) / 3600
    return f"{table(head, lines, 8)}\nAll runs together took {hours:.1f} hours of one core.\n"


def _made_by(runs: Sequence[RunFile], benchmark: str) -> list[str]:
    minutes = [run.wall_s / 60 for run in runs]
    ends = dict.fromkeys(f"{end:.0f}" for end in (min(minutes), max(minutes)))
    own = "; ".join(f"`{path}` {_readable(value)}" for path, value in runs[0].differs.items())
    return [
        f"`lwd results run --benchmark {benchmark} --only '*/{runs[0].method}/*'`",
        _each(f"`{run.commit}`" for run in runs),
        _each(_machine(run.hardware) for run in runs),
        _each(run.software.get("jax", "?") for run in runs),
        " to ".join(ends),
        ", ".join(f"{run.seed}: `{run.sft_policy[:6]}`" for run in runs if run.sft_policy) or MISSING,
        own.replace("|", "\\|"),
    ]


def _readable(value: str) -> str:
    """A setting as Python wrote it, its enumerations' values and short floats in place of their representations."""
    value = re.sub(r"<\w+\.\w+: '(\w+)'>", r"\1", value).replace(",)", ")")
    return re.sub(r"\d+\.\d{12,}", lambda number: f"{float(number[0]):.6g}", value)


def _machine(hardware: Mapping[str, str]) -> str:
    cores = hardware.get("cores", "?")
    told = counted(int(cores), "core") if cores.isdecimal() else f"{cores} cores"
    return f"{hardware.get('processor', '?')}, {told}"


def _each(texts: Iterable[str]) -> str:
    return ", ".join(sorted(set(texts)))
