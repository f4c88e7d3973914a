"""The page of the search: what every method was tried with, and what became its default."""

from __future__ import annotations

from collections.abc import Sequence

from lwd.recipes.search import CANDIDATES, Candidate, metaworld_search, used
from lwd.results.board import LABELS, Board
from lwd.results.markdown import provenance
from lwd.results.text import MISSING, show, table

HEAD = """# The search behind the comparison

Written by `make table` from the run files in `results/runs/metaworld_search`; `lwd results run --benchmark metaworld_search`
makes them.

Every method, LWD too, has the same budget: three values of the setting that matters most to it
(`lwd.recipes.search.SPACE`), and one beyond the edge of the three where that edge was best; one training seed that no
comparison uses; the fast tier's eight tasks; up to the offline stage, HG-DAgger, which learns nothing offline, up to the online
stage. Brackets hold 95 % intervals over the held-out starts of the one seed. "Used" is the method's default in every
comparison, to be the best of its values on all tasks, or the value that it had before where the two intervals overlap widely.
The training seed is one of its own; the held-out starts are those of the comparison, so that every method's setting, LWD's
too, was chosen by the attempts on which it is compared. HG-DAgger's rows are from before only whole chunks of the human counted
as corrections.

Besides, LWD had the search of decision records [0019](../decisions/0019-the-demo-recipe.md) to
[0023](../decisions/0023-online-returns-and-tau.md), on the scene: fleet, data, network sizes and schedules, which all methods
share, and n, tau_base and temperature of its online stage, which IQL with QAM, AWAC and best of n share. Later ones looked at
LWD too: rates of RL offline and online ([0026](../decisions/0026-the-clones-learning-rate.md)), the policy's width
([0035](../decisions/0035-one-benchmark-of-the-scene.md)), temperature and the critic's width on the scene
([0036](../decisions/0036-what-does-not-limit-offline-learning.md), nothing changed). No other method had a run
of its own there.

Edges that were left: RECAP's best value is the last one tried, by 0.01; IQL with QAM's is its least, level with the next; RFT
uses 0.003, its clone's rate, where 0.0003 has 0.01 more. All three are within their intervals.
"""


def search_page(board: Board) -> str:
    """The whole page."""
    own = used(metaworld_search())
    lines = [_line(board, one, one in own) for one in CANDIDATES]
    head = ["method", "setting", "value", "all", "short", "long", "used"]
    return "\n".join([HEAD, table(head, lines, left=2), "## What ran\n", provenance(board)])


def _line(board: Board, one: Candidate, is_used: bool) -> Sequence[str]:
    score = board.scores.get(one.name)
    means = [MISSING] * 3
    if score is not None:
        means = [show(score.means[name].success) for name in ("average", "short", "long")]
    return [LABELS[one.method], one.setting, f"{one.value:g}", *means, "yes" if is_used else ""]
