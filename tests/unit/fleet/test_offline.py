"""Stages that learn without robots: run again when they are done, they change nothing."""

from dataclasses import replace

import pytest
import toy_fleet

from lwd.fleet.folder import open_services
from lwd.fleet.hosts import Team
from lwd.fleet.offline import first_state, prepared, train_offline, train_sft
from lwd.fleet.policies import load_reference
from lwd.fleet.services import open_replay
from lwd.fleet.training import draws_of

pytestmark = pytest.mark.usefixtures("quick_compilation")


def test_a_stage_that_is_done_publishes_nothing_when_it_is_run_again(trained_copy, console):
    """Else robots that follow the newest snapshot would be sent the SFT policy in place of what was learned since."""
    x = toy_fleet.experiment()
    with open_services(trained_copy) as services:
        before = services.snapshots.list()
        assert train_sft(x, services, console) == before[0]
        assert train_offline(x, services, console) == before[-1]
        assert services.snapshots.list() == before


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b""), lambda file: file.unlink()])
def test_a_published_policy_that_is_damaged_is_mended(trained_copy, console, damage):
    with open_services(trained_copy) as services:
        before = services.snapshots.list()
        damage(trained_copy.path / "objects" / before[-1].key)
        assert train_offline(toy_fleet.experiment(), services, console) == before[-1]
        assert services.snapshots.list() == before
        services.snapshots.load(before[-1].number)


def test_the_same_policy_with_other_metadata_is_published(trained_copy, console):
    """Robots would go on with as many flow steps as before."""
    x = toy_fleet.experiment()
    x = replace(x, model=replace(x.model, flow_steps=x.model.flow_steps + 1))
    with open_services(trained_copy) as services:
        before = services.snapshots.list()[-1]
        again = train_offline(x, services, console)
        assert again.number == before.number + 1
        assert services.snapshots.load(again.number)[1].meta["flow_steps"] == x.model.flow_steps


def test_each_turn_and_the_online_stage_draw_rows_of_their_own(trained_copy, console):
    """SFT and offline learning draw what they always drew: committed results rest on it."""
    x = toy_fleet.experiment()

    def rows(name):
        with prepared(x, services, console, x.offline, first, name, Team()) as ready:
            return [part.sampler.indices(3, 2, 8)[1].tolist() for part in ready.parts]

    with open_services(trained_copy) as services:
        first = first_state(x, x.offline.learner, load_reference(x, services))
        names = ("offline", "online_round_1", "online_round_2", "consolidated", "online")
        drawn = {name: rows(name) for name in names}
        assert rows("online_round_2") == drawn["online_round_2"], "resumed, it draws the same"
        with open_replay(x, services, "before") as (replay, reader):
            reader.refresh()
            plain = replay.sampler(replay.view(), x.offline.mixture, x.seed).indices(3, 2, 8)[1].tolist()
    assert drawn["offline"] == [plain, plain]
    assert draws_of("sft") == draws_of("offline") == 0
    assert len({str(found) for found in drawn.values()}) == len(names)
