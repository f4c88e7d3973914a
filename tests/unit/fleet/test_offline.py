"""Stages that learn without robots: run again when they are done, they change nothing."""

import pytest
import toy_fleet

from lwd.fleet.folder import open_services
from lwd.fleet.offline import train_offline, train_sft

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_stage_that_is_done_publishes_nothing_when_it_is_run_again(trained_copy, console):
    """Else robots that follow the newest snapshot would be sent the SFT policy in place of what was learned since."""
    x = toy_fleet.experiment()
    with open_services(trained_copy) as services:
        before = services.snapshots.list()
        assert train_sft(x, services, console) == before[0]
        assert train_offline(x, services, console) == before[-1]
        assert services.snapshots.list() == before


def test_a_published_policy_that_is_damaged_is_published_anew(trained_copy, console):
    with open_services(trained_copy) as services:
        before = services.snapshots.list()
        damaged = trained_copy.path / "objects" / before[-1].key
        damaged.write_bytes(b"")
        again = train_offline(toy_fleet.experiment(), services, console)
        assert again is not None
        assert again.number == before[-1].number + 1
        assert services.snapshots.load(again.number)[1] == again
