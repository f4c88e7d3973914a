"""The slow tier: a dummy-size VLA goes through the whole loop on pictures, and learns. `make test-vla`."""

from __future__ import annotations

import pytest
from rich.console import Console

from lwd.errors import ConfigError
from lwd.recipes import recipe
from lwd.robot.sim import rendering
from tools import vla_learns

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    try:
        rendering._context(8, 8).free()
    except ConfigError as error:
        pytest.skip(f"{error} .ci/run installs it.")
    folder = tmp_path_factory.mktemp("vla") / "run"
    return vla_learns.run(recipe("scene_vla"), folder, Console(quiet=True))


def test_the_loss_of_sft_falls(result):
    losses = [loss for _, loss in result["sft_loss"]]
    assert losses[-1] < 0.7 * losses[0], losses


def test_the_value_separates_success_from_failure(result):
    """Along episodes of the online stage, which the offline value has not been trained on."""
    value = result["value"]
    assert min(len(value["success"]), len(value["failure"])) >= 5
    assert vla_learns.area_under_curve(value, -1) > 0.75


def test_it_acts(result):
    """More than nothing, at every stage; how much is not what a network of this size can show."""
    assert all(value > 0.0 for value, _, _ in result["success"].values()), result["success"]
