"""What the pages show runs, and every decision record has its parts."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import markdown
import numpy as np
import pytest
import yaml

from lwd import image
from lwd.cli import parse
from lwd.episode import Outcome
from lwd.errors import UnknownNameError
from lwd.log import tables
from lwd.log.catalogue import Catalogue
from lwd.robot.guard_limits import GuardLimits, load_limits
from lwd.robot.operator import GatingOperator
from lwd.robot.sim.fleet_spec import FleetSpec
from lwd.spec import RobotSpec

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECORDS = sorted((DOCS / "decisions").glob("[0-9]*.md"))


def test_robot_of_the_guide_works() -> None:
    page = (DOCS / "how-to/add_a_robot.md").read_text(encoding="utf-8")
    program, with_button, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "add_a_robot.md", "exec"), names)
    robot, operators = names["make"](FleetSpec(tier="my_lab.slider:make"))
    sensed = robot.reset("reach", 3)
    operators["expert"].begin("reach", 0)
    while robot.outcome() is None:
        sensed = robot.apply(operators["expert"].act())
    assert robot.outcome() is Outcome.SUCCESS
    assert robot.milestones_reached() == 1
    assert sensed.proprio.shape == (robot.spec.proprio_dim,)
    with pytest.raises(UnknownNameError, match="Did you mean 'reach'"):
        robot.reset("reech", 0)

    exec(compile(with_button, "add_a_robot.md", "exec"), names)
    _, operators = names["make_with_button"](FleetSpec(tier="my_lab.slider:make_with_button"))
    assert isinstance(operators["expert"], GatingOperator)


def test_limits_of_the_guide_are_limits_and_all_of_them_are_explained(tmp_path: Path) -> None:
    page = (DOCS / "how-to/add_a_robot.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "guard.json").write_text(shown)
    limits = load_limits(tmp_path / "guard.json")
    limits.check(RobotSpec(name="arm", proprio_dim=7, action_dim=7, control_hz=10.0, chunk_steps=5))
    names = {field.name for field in dataclasses.fields(GuardLimits)}
    assert set(json.loads(shown)) == names
    section = page[page.index("## Put limits") : page.index("## A recipe")]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == names


def test_recipe_of_the_guide_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to its demonstrations; the stages after them are those of any recipe."""
    page = (DOCS / "how-to/add_a_robot.md").read_text(encoding="utf-8")
    (tmp_path / "my_lab").mkdir()
    for name, program in zip(
        ("slider", "button", "recipes"), re.findall(r"```python\n(.*?)```", page, re.DOTALL), strict=True
    ):
        (tmp_path / "my_lab" / f"{name}.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    )
    parse(["collect", "--recipe", "my_lab.recipes:slider", "--out", str(tmp_path / "run")]).run()
    with Catalogue(str(tmp_path / "run" / "catalogue.db")) as catalogue:
        assert [(row.source, row.operator, row.outcome) for row in catalogue.episodes()] == [
            ("demo", "expert", "success")
        ] * 2


def test_recipe_of_published_weights_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The robot of the page on cameras; tokenizers and weights are files that are read later."""
    (program,) = re.findall(
        r"```python\n(.*?)```",
        (DOCS / "how-to/use_published_weights.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    cameras = (DOCS / "how-to/add_cameras.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    seen: dict[str, Any] = {}
    exec(compile(program, "use_published_weights.md", "exec"), names)
    exec(compile(re.findall(r"```python\n(.*?)```", cameras, re.DOTALL)[0], "add_cameras.md", "exec"), seen)
    networks = names["two_arms"]().model.for_robot(seen["spec"])
    assert networks.policy.cameras == ("base", "left_wrist")
    assert networks.critic.chunk_steps == 30


def test_cameras_of_the_guide_work() -> None:
    page = (DOCS / "how-to/add_cameras.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "add_cameras.md", "exec"), names)
    spec = names["spec"]
    frames = {camera.name: np.full((480, 640, 3), 99, np.uint8) for camera in spec.cameras}
    sensed = names["sense"](np.zeros(spec.proprio_dim), frames)
    for camera in spec.cameras:
        pixels = image.decode(sensed.images[camera.name], camera.height, camera.width)
        assert np.abs(pixels[112].astype(int) - 99).max() <= 1
        assert not pixels[:24].any(), "640 x 480 becomes 224 x 168 between bars of 28 rows"


def rendered(page: str) -> str:
    """The page's HTML, by the extensions of mkdocs.yml."""
    config = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))
    settings: dict[str, Any] = {}
    for one in config["markdown_extensions"]:
        settings |= one if isinstance(one, dict) else {one: {}}
    settings["pymdownx.snippets"] = {"base_path": [str(DOCS)], "check_paths": True}
    text = (DOCS / page).read_text(encoding="utf-8")
    return markdown.markdown(text, extensions=list(settings), extension_configs=settings)


@pytest.mark.parametrize("page", ["index.md", "explanation/architecture.md"])
def test_picture_of_the_loop_is_drawn(page: str) -> None:
    html = rendered(page)
    picture = html[html.index("<svg") : html.index("</svg>")]
    assert html.count("<svg") == 1
    assert "<p>" not in picture, "Markdown took the picture apart"
    assert picture.count("<style>") == picture.count("</style>") == 1
    assert not html[: html.index("<svg")].rstrip().endswith("<p>")


def test_steps_of_a_guide_are_one_list() -> None:
    (steps,) = re.findall(r"<ol>.*</ol>", rendered("how-to/run_a_fleet.md"), re.DOTALL)
    assert steps.count("<ol>") == 1
    assert len(re.findall(r"^<li>", steps, re.MULTILINE)) == 5


def test_page_of_formats_lists_the_tables_of_the_catalogue() -> None:
    page = (DOCS / "reference/file_formats.md").read_text(encoding="utf-8")
    section = page[page.index("## Catalogue") : page.index("## Manifest")]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(named) == sorted(tables.metadata.tables)
    assert f"Tables of version {tables.CATALOGUE_VERSION} " in section


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_decision_has_its_parts(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# {path.name[:4]}: ")
    assert re.search(r"^Status: \w.* · \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Choice", "What we gave up"]
    assert len(text) < 3500, "one page"


def test_decisions_cited_in_code_exist() -> None:
    numbers = {path.name[:4] for path in RECORDS}
    cited: set[str] = set()
    for path in (DOCS.parent / "src").rglob("*.py"):
        cited |= set(re.findall(r"[Dd]ecision\s+record\s+(\d{4})", path.read_text(encoding="utf-8")))
    assert cited <= numbers


def test_page_of_scale_is_what_the_benchmarks_measured() -> None:
    from tools import scale_page

    page = (DOCS / "explanation/scale.md").read_text(encoding="utf-8")
    assert page == scale_page.fill(page, scale_page.section())
    sources = [
        line.split("|")[3].strip() for line in scale_page.section().splitlines() if line.count("|") == 4
    ]
    assert {one for one in sources[2:] if not one.startswith("`")} == {"its code", "assumed"}


def test_arithmetic_of_scale() -> None:
    """By hand: 100,000 robots with an episode each 300 s are 333 a second; at 3 ms each that is one core."""
    from tools import scale_page

    rows = dict(scale_page.arithmetic({"coordinator_cpu_ms": 3.0, "catalogue_bytes": 1000.0}))
    assert rows["episodes / s = robots / 300"] == ["0.053 /s", "3.3 /s", "333 /s"]
    assert rows["snapshot download with a cache per site"][1:] == ["100 MB/s", "10,000 MB/s"]
    assert rows["connections with a leaf node per site"] == ["1", "50", "5,000"]
    assert rows["partitions = cores for episodes / 0.5, rounded up"] == ["1", "1", "2"]
    assert rows["catalogue growth in a day"][2] == "29 GB"
    assert rows["statuses on the broker = robots / 2 s"] == ["8 /s", "500 /s", "50,000 /s"]
    assert rows["coordinator, cores for statuses"] == ["-", "-", "-"]  # not measured here


def test_the_page_of_the_small_vla_is_what_its_result_says():
    from tools import vla_learns

    result = json.loads((vla_learns.ROOT / vla_learns.RESULT).read_text(encoding="utf-8"))
    assert (vla_learns.ROOT / vla_learns.PAGE).read_text(encoding="utf-8") == vla_learns.page(result)


def test_the_chance_that_a_success_has_more_value_by_hand():
    from tools.vla_learns import area_under_curve

    value = {"success": [[0.1, 0.9], [0.5, 0.8]], "failure": [[0.1, 0.2], [0.3, 0.9]]}
    assert area_under_curve(value, 0) == (0.5 + 0 + 1 + 1) / 4  # a tie, a loss, two wins
    assert area_under_curve(value, 1) == (1 + 0.5 + 1 + 0) / 4
