"""The promoter on hand-written episodes: what is promoted, rejected, gone back from; killed at any point it goes on."""

import threading
import time

import numpy as np
import pytest
import sqlalchemy as sa
import toy_fleet
from servers import NatsServer
from toy_policies import publish, walking

from lwd.errors import ConfigError, StoreError
from lwd.evaluate.canary import TrialPlan
from lwd.fleet import promotion_evidence
from lwd.fleet.folder import RunFolder, open_services
from lwd.fleet.promoter import Promoter, PromoterOptions, run_promoter
from lwd.fleet.releasing import carry_out, pinned, promoted, unpinned
from lwd.fleet.service import ServiceContext
from lwd.instruction import InstructionEncoder
from lwd.log import robots, tables
from lwd.log.nats_link import NatsLink
from lwd.log.status import StatusRow, record_statuses
from lwd.snapshot.keys import load_private_key
from lwd.snapshot.nats_releases import NatsReleases
from lwd.snapshot.releases import OvertakenError, ReleaseStore, newest_release, releases

KIND = toy_fleet.SPEC.name
PLAN = TrialPlan(least=10, most=40, looks=4, margin=0.25)
ROBOTS = ("line-00", "line-01", "line-02", "line-03")


class Shop:
    """A fleet without its processes: policies, robots that say they are there, episodes written by hand."""

    def __init__(self, services, **options):
        self.services, self.catalogue = services, services.catalogue
        self.options = PromoterOptions(**{"plan": PLAN, **options})
        self.context = ServiceContext("promoter", "promoter")
        for name in ROBOTS:
            robots.invite(self.catalogue, name, KIND)
        self.here(*ROBOTS)
        self.promoter = self.anew()

    @property
    def key(self):
        return load_private_key(self.services.folder.snapshot_key)

    def anew(self, channel=None):
        """As after a kill: nothing is left but the catalogue."""
        encoder = InstructionEncoder(dim=8)
        return Promoter(self.context, toy_fleet.SPEC, encoder, self.services, self.key, channel, self.options)

    def here(self, *names, edition=1, ago=0.0):
        at = time.time() - ago
        record_statuses(
            self.catalogue,
            [
                StatusRow(name=n, role="robot", sent_at=at, received_at=at, payload={"edition": edition})
                for n in names
            ],
        )

    def step(self, times=1):
        for _ in range(times):
            self.promoter.step()
        return self.held

    @property
    def held(self):
        return newest_release(self.catalogue, KIND)

    def publish(self, speed=0.5):
        return publish(self.services, walking(speed))

    def status(self, number):
        row = self.services.snapshots.read(number)
        return row.status, row.reason

    def episodes(self, snapshot, outcomes, *, robot="line-03", task="near", spec=KIND, source="online"):
        """One per letter: s a success, f a failure, h a success with help, u one without a verdict."""
        rows = []
        for letter in outcomes:
            number = np.random.default_rng().integers(2**60)
            rows.append(
                {
                    "episode_id": f"e{number}", "task": task, "instruction": task, "source": source, "robot": robot,
                    "spec": spec, "control_hz": 10.0, "snapshot": snapshot, "software": "0", "started_at": time.time(),
                    "outcome": {"f": "failure", "u": "unjudged"}.get(letter, "success"), "stage_score": 1.0, "steps": 9,
                    "cycle_time_s": 1.0, "intervention_steps": int(letter == "h"), "key": "k", "sha256": "s", "size": 1,
                    "catalogued_at": time.time(),
                }
            )  # fmt: skip
        with self.catalogue.write() as connection:
            connection.execute(sa.insert(tables.episodes), rows)


@pytest.fixture
def services(tmp_path):
    with open_services(RunFolder(tmp_path / "run")) as opened:
        yield opened


@pytest.fixture
def shop(services, monkeypatch):
    # The episodes' files are not there; what the gates do with them has tests of its own.
    monkeypatch.setattr("lwd.fleet.promoter.observations", lambda *_: [])
    return Shop(services)


@pytest.fixture
def tested(shop):
    """Snapshot 1 is stable, with 200 episodes of which 4 in 5 succeed; snapshot 2 is the candidate."""
    shop.publish()
    shop.step()
    shop.episodes(1, "ssssf" * 40)
    shop.publish()
    shop.step()
    return shop


def said(shop):
    return shop.context.status()


def test_the_first_snapshot_is_the_stable_one_and_the_next_waits_for_something_to_compare_with(shop):
    assert shop.step() is None
    assert said(shop)["waits_for"] == "the first snapshot"
    shop.publish()
    first = shop.step()
    assert (first.edition, first.stable, first.candidate, first.reason) == (1, 1, None, "the first release")
    assert shop.step(3) == first
    assert said(shop)["state"] == "rests"
    shop.publish()
    shop.episodes(1, "sssss" + "uuuuuuuu")
    shop.episodes(1, "s" * 9, source="play")
    shop.episodes(1, "s" * 9, spec="crane")
    assert shop.step() == first
    assert said(shop)["about"] == "5 of 10 episodes of the stable snapshot to compare with"
    shop.episodes(1, "sssss")
    found = shop.step()
    assert (found.edition, found.stable, found.candidate) == (2, 1, 2)
    assert len(found.canaries) == 2
    assert set(found.canaries) < set(ROBOTS)


def test_a_candidate_that_is_as_good_is_promoted_and_then_watched(tested):
    tested.episodes(2, "ssssfssss", robot="line-01")
    before = tested.held
    assert tested.step() == before, "9 of 10: nothing is found in between"
    assert (said(tested)["state"], said(tested)["candidate"]) == ("tests", 2)
    tested.episodes(2, "f" + "ssssf" * 6)
    found = tested.step()
    assert (found.edition, found.stable, found.previous, found.candidate, found.canaries) == (
        3,
        2,
        1,
        None,
        (),
    )
    assert found.reason.startswith("promoted, not worse: candidate ")
    tested.publish()
    assert tested.step() == found, "no new candidate while the last one is watched"
    assert said(tested)["state"] == "watches"


def test_a_candidate_that_is_worse_is_rejected_and_the_canaries_go_back(tested):
    canaries = tested.held.canaries
    assert [tested.held.allowed(name) for name in canaries] == [2, 2]
    tested.episodes(2, "f" * 10, robot=canaries[0])
    found = tested.step()
    assert (found.edition, found.stable, found.candidate, found.canaries) == (3, 1, None, ())
    assert [found.allowed(name) for name in canaries] == [1, 1]
    status, why = tested.status(2)
    assert status == "rejected"
    assert why.startswith("worse on canaries: candidate 0 of 10 without help")
    assert found.reason == f"snapshot 2 rejected, {why}"
    assert tested.step(3) == found, "it is not tried again"
    tested.publish()
    assert tested.step().candidate == 3


def test_what_is_between_is_skipped(tested):
    for _ in range(3):
        tested.publish()
    assert tested.step().candidate == 2
    tested.episodes(2, "f" * 10)
    tested.step()
    assert tested.step().candidate == 5


def test_what_stays_open_is_rejected_after_the_last_look(tested):
    tested.episodes(2, "ssfssfsssf" * 4)  # 0.7 against 0.8
    found = tested.step()
    assert (found.stable, found.candidate) == (1, None)
    assert tested.status(2)[1].startswith("undecided on canaries")


def test_a_canary_whose_operator_takes_over_more_often_is_rejected(tested):
    tested.episodes(2, "h" * 10)
    assert tested.step().candidate is None
    assert "10 taken over" in tested.status(2)[1]


def test_a_candidate_whose_attempts_die_on_one_task_is_rejected(tested):
    tested.episodes(1, "ssssf" * 20, task="far")
    for _ in range(20):
        tested.episodes(2, "u", task="far")
        tested.episodes(2, "s")
    found = tested.step()
    assert (found.stable, found.candidate) == (1, None)
    status, why = tested.status(2)
    assert status == "rejected"
    assert why.startswith(
        "worse on canaries: candidate 5 of 5 without help, 0 taken over, 5 without a verdict; "
    )


def test_what_operators_stop_under_both_policies_is_held_against_neither(tested):
    tested.episodes(1, "u" * 40)  # of 240
    tested.episodes(2, "sssssu" * 7)
    assert tested.step().stable == 2


def test_whose_attempts_die_after_the_promotion_is_gone_back_from(tested):
    tested.episodes(2, "s" * 40)
    assert tested.step().stable == 2
    tested.episodes(2, "u" * 10)
    found = tested.step()
    assert (found.stable, found.previous) == (1, None)
    assert tested.status(2)[1].startswith("worse after its promotion: candidate 0 of 0 without help")


def test_who_does_worse_after_the_promotion_is_gone_back_from(tested):
    tested.episodes(2, "s" * 40)
    assert tested.step().stable == 2
    tested.episodes(2, "f" * 9)
    assert tested.step().stable == 2
    tested.promoter = tested.anew()
    tested.episodes(2, "f")
    found = tested.step()
    assert (found.edition, found.stable, found.previous, found.candidate) == (4, 1, None, None)
    assert tested.status(2)[0] == "rejected"
    assert tested.status(2)[1].startswith("worse after its promotion: candidate 0 of 10")
    assert tested.step(2) == found


def test_the_episodes_that_it_was_promoted_for_do_not_count_in_the_watch(tested):
    tested.episodes(2, "s" * 40)
    tested.step()
    tested.step()
    assert said(tested)["tested_episodes"] == 0


def test_a_watch_ends_with_its_window_and_the_next_candidate_is_tested(tested):
    tested.episodes(2, "s" * 40)
    tested.step()
    tested.publish()
    tested.episodes(2, "ssssf" * 8)
    found = tested.step()
    assert (found.edition, found.stable, found.previous, found.candidate) == (4, 2, None, 3)


def test_a_candidate_about_which_nothing_comes_in_is_rejected_in_the_end(services, monkeypatch):
    monkeypatch.setattr("lwd.fleet.promoter.observations", lambda *_: [])
    shop = Shop(services, patience_s=0.3)
    shop.publish()
    shop.step()
    shop.episodes(1, "s" * 20)
    shop.publish()
    assert shop.step().candidate == 2
    time.sleep(0.4)
    assert shop.step().candidate is None
    assert shop.status(2) == ("rejected", "nothing found in 0.3 s: 0 of 10 episodes until the next look")


def test_what_the_gates_refuse_meets_no_robot(shop):
    shop.publish()
    shop.step()
    shop.episodes(1, "s" * 20)
    arrays, meta = walking(0.5)
    publish(shop.services, (arrays, {**meta, "chunk_steps": 9}))
    first = shop.held
    assert shop.step(2) == first
    assert shop.status(2)[0] == "rejected"
    assert shop.status(2)[1].startswith("gates: snapshot 2 has chunk_steps 9")
    damaged = shop.publish(0.6)
    shop.services.objects.delete(shop.services.snapshots.read(damaged).key)
    assert shop.step() == first
    assert shop.status(damaged)[1].startswith("gates: snapshot 3: ")
    shop.publish()
    assert shop.step().candidate == 4


def test_a_first_snapshot_that_does_not_load_is_no_stable_one(shop):
    arrays, meta = walking(0.5)
    publish(shop.services, (arrays, {**meta, "instruction_encoder": "words-v9"}))
    assert shop.step() is None
    assert shop.status(1)[0] == "rejected"
    shop.publish()
    assert shop.step().stable == 2


def test_a_store_that_is_away_rejects_nobody(tested, monkeypatch):
    tested.episodes(2, "f" * 10)
    tested.step()
    tested.publish()

    def away(*_):
        raise StoreError("the cable is out")

    monkeypatch.setattr("lwd.fleet.promoter.observations", away)
    with pytest.raises(StoreError):
        tested.step()
    assert tested.status(3)[0] == "published"
    monkeypatch.setattr("lwd.fleet.promoter.observations", lambda *_: [])
    assert tested.step().candidate == 3


# ---- who is a canary -------------------------------------------------------------------------------------------------


def canaries(shop, count=2, named=(), held=None):
    return promotion_evidence.Evidence(shop.catalogue, KIND).canaries(held or shop.held, count, named)


def test_canaries_are_robots_at_work_that_follow_releases_and_one_goes_on_under_the_stable_policy(tested):
    assert len(canaries(tested, 9)) == 3
    now = time.time()
    record_statuses(
        tested.catalogue,
        [
            StatusRow(name="line-00", role="robot", sent_at=now, received_at=now, payload={}),
            StatusRow(name="line-01", role="robot", sent_at=now, received_at=now, payload={"edition": 1, "stopping": True}),
        ],
    )  # fmt: skip
    robots.revoke(tested.catalogue, "line-03")
    assert canaries(tested) == ("line-02",), "the only robot is the canary"
    tested.here("line-02", ago=61.0)
    assert canaries(tested) == ()


def test_a_canary_that_is_gone_is_replaced_once_another_robot_is_there(tested):
    first, second = tested.held.canaries
    tested.here(first, ago=61.0)
    found = tested.step()
    assert (found.edition, found.candidate, len(found.canaries)) == (3, 2, 2)
    assert first not in found.canaries
    assert second in found.canaries
    assert tested.step(2) == found
    tested.here(*ROBOTS, ago=61.0)  # the coordinator was away
    assert tested.step(2) == found


def test_named_robots_alone_are_canaries(services, monkeypatch):
    monkeypatch.setattr("lwd.fleet.promoter.observations", lambda *_: [])
    shop = Shop(services, named=("line-03",))
    shop.publish()
    shop.step()
    shop.episodes(1, "s" * 20)
    shop.publish()
    assert shop.step().canaries == ("line-03",)


def test_without_robots_a_candidate_waits(tested):
    tested.episodes(2, "f" * 10)
    tested.step()
    tested.publish()
    tested.here(*ROBOTS, ago=61.0)
    assert tested.step().candidate is None
    assert said(tested)["waits_for"] == "robots that follow releases"
    assert tested.status(3)[0] == "published"


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_pins_hold_whatever_is_promoted_rejected_or_gone_back_from(tested):
    services = tested.services
    carry_out(services, pinned(services, "line-00", 1))
    seen = [tested.held.allowed("line-00")]
    tested.episodes(2, "s" * 40)
    for step in (lambda: None, lambda: tested.episodes(2, "f" * 10), lambda: None):
        step()
        tested.step()
        seen.append(tested.held.allowed("line-00"))
    assert set(seen) == {1}
    assert [r.stable for r in releases(tested.catalogue)] == [1, 1, 1, 2, 1]
    assert "line-00" not in {name for r in releases(tested.catalogue)[2:] for name in r.canaries}
    assert carry_out(services, unpinned(services, "line-00")).pins == {}


def test_a_promotion_by_hand_ends_the_test_and_is_not_gone_back_from(tested):
    services = tested.services
    carry_out(services, promoted(services, 2))
    found = tested.held
    assert (found.stable, found.previous, found.candidate, found.reason) == (
        2,
        None,
        None,
        "2 promoted by hand",
    )
    tested.episodes(2, "f" * 40)
    assert tested.step(3) == found


def test_a_test_that_is_stopped_by_hand_stays_stopped(tested):
    services = tested.services
    change = promoted(services, 1)
    assert change.rejected == {2: "left by hand for 1"}
    carry_out(services, change)
    found = tested.held
    assert (found.stable, found.candidate, found.canaries) == (1, None, ())
    assert tested.status(2) == ("rejected", "left by hand for 1")
    assert tested.step(3) == found, "no other robots are asked to test it"
    tested.publish()
    assert tested.step().candidate == 3, "what is published since is tested"


def test_a_way_back_in_the_middle_of_a_test_ends_it_for_good(tested):
    services = tested.services
    tested.episodes(2, "s" * 40)
    tested.step()
    tested.episodes(2, "ssssf" * 8)
    tested.publish()
    assert (tested.step().stable, tested.held.candidate) == (2, 3)
    carry_out(services, promoted(services, 1))
    assert [tested.status(number)[0] for number in (1, 2, 3)] == ["published", "rejected", "rejected"]
    assert tested.step(3).candidate is None


def test_what_is_left_for_an_older_one_is_not_tried_again(tested):
    services = tested.services
    tested.episodes(2, "s" * 40)
    tested.step()
    change = promoted(services, 1)
    assert (change.before.stable, change.after.stable) == (2, 1)
    carry_out(services, change)
    assert tested.status(2) == ("rejected", "left by hand for 1")
    assert tested.step(3).stable == 1
    assert tested.held.candidate is None


def test_a_promoter_that_was_overtaken_by_hand_looks_again(tested, monkeypatch):
    services, newest = tested.services, tested.promoter._releases.newest

    def late(kind):
        found = newest(kind)
        monkeypatch.undo()
        carry_out(services, pinned(services, "line-00", 1))
        return found

    tested.episodes(2, "f" * 10)
    monkeypatch.setattr(tested.promoter._releases, "newest", late)
    with pytest.raises(OvertakenError):
        tested.promoter.step()
    assert tested.status(2)[0] == "published", "nothing of it was done"
    monkeypatch.setattr("lwd.fleet.promoter.observations", lambda *_: [])
    found = tested.step()
    assert (found.candidate, found.pins) == (None, {"line-00": 1})
    assert [r.edition for r in releases(tested.catalogue)] == [1, 2, 3, 4]


# ---- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [True, False], ids=["broker answers", "broker away at first"])
def test_a_restored_catalogue_takes_robots_along_whatever_edition_it_makes(
    tested, nats_server: NatsServer, answers
):
    """Robots follow edition 3, which promoted 2. In the backup edition 2 holds, and another 3 is made of it."""

    def channel(link, wait_s):
        return NatsReleases(link, tested.key.public_key(), KIND, first_wait_s=wait_s)

    with NatsLink(nats_server.url) as robots_link, NatsLink(nats_server.url) as link:
        robot, before = channel(robots_link, 20.0), channel(link, 20.0)
        tested.promoter = tested.anew(before)
        tested.episodes(2, "s" * 40)
        assert tested.step().stable == 2
        assert before.flush(30.0)
        before.close()
        with tested.catalogue.write() as connection:  # the restore; the canaries' bad episodes came in since
            connection.execute(sa.delete(tables.releases).where(tables.releases.c.edition == 3))
            bad = sa.update(tables.episodes).where(tables.episodes.c.snapshot == 2)
            connection.execute(bad.values(outcome="failure"))
        tested.promoter = tested.anew()  # without a broker
        assert (tested.step().edition, tested.held.stable) == (3, 1)
        after = channel(link, 20.0 if answers else 0.0)
        tested.promoter = tested.anew(after)
        deadline = time.monotonic() + 30.0
        while (found := robot.held()) is None or found.release.stable != 1:
            tested.step()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert after.flush(30.0)
        assert tested.step(2) == found.release
        assert (found.release.edition, found.release.candidate) == (4, None)
        assert (
            found.release.reason
            == "once more: robots know another release 3, which the catalogue has forgotten"
        )


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["before", "after"])
def test_killed_around_any_release_it_goes_on_and_no_edition_is_made_twice(shop, monkeypatch, where):
    """The whole story, with a promoter that dies once at each release, before or after it is stored."""
    issue, armed = ReleaseStore.issue, [True]

    def dies(self, *args, **more):
        dying, armed[0] = armed[0], False
        if dying and where == "before":
            raise Killed
        made = issue(self, *args, **more)
        if dying:
            raise Killed
        return made

    monkeypatch.setattr(ReleaseStore, "issue", dies)
    shop.publish()
    story = (
        lambda: None,
        lambda: (shop.episodes(1, "ssssf" * 40), shop.publish()),
        lambda: shop.episodes(2, "s" * 40),
        lambda: shop.episodes(2, "f" * 10),
        lambda: shop.publish(),
        lambda: shop.episodes(3, "f" * 10),
    )
    for part in story:
        part()
        armed[0] = True
        with pytest.raises(Killed):
            shop.promoter.step()
        shop.promoter = shop.anew()
        if where == "before":
            shop.promoter.step()
    found = releases(shop.catalogue)
    assert [(r.stable, r.candidate) for r in found] == [
        (1, None),
        (1, 2),
        (2, None),
        (1, None),
        (1, 3),
        (1, None),
    ]
    assert [r.edition for r in found] == [1, 2, 3, 4, 5, 6]
    assert [shop.status(n)[0] for n in (1, 2, 3)] == ["published", "rejected", "rejected"]


def test_its_loop_bears_errors_says_them_and_ends_when_told(tested, monkeypatch, caplog):
    failing, stop = threading.Event(), threading.Event()
    failing.set()
    step, times = tested.promoter.step, []

    def sometimes():
        times.append(1)
        if failing.is_set():
            raise StoreError("no database")
        step()

    monkeypatch.setattr(tested.promoter, "step", sometimes)
    monkeypatch.setattr("lwd.fleet.promoter.POLL_S", 0.01)
    thread = threading.Thread(target=tested.promoter.run, args=(stop,))
    thread.start()
    deadline = time.monotonic() + 30.0
    while len(times) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert said(tested)["waits_for"] == "an error to pass: no database"
    failing.clear()
    while said(tested)["state"] != "tests" and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join(10.0)
    assert not thread.is_alive()
    assert said(tested)["waits_for"] is None
    assert caplog.text.count("promoter_waits") == 1, "said once"


def test_what_it_cannot_work_without_is_said(services, tmp_path):
    context = ServiceContext("promoter", "promoter")
    with pytest.raises(ConfigError, match="needs the fleet's broker"):
        run_promoter(context, toy_fleet.experiment(), services.folder, PromoterOptions())
    with pytest.raises(ConfigError, match="the key that signs snapshots"):
        run_promoter(context, toy_fleet.experiment(), RunFolder(tmp_path / "elsewhere"), PromoterOptions())
    for canaries in (0, -1, 65):
        with pytest.raises(ConfigError, match=f"{canaries} canaries; expected 1 to 64.*--canaries"):
            PromoterOptions(canaries=canaries)
    assert PromoterOptions(canaries=64).canaries == 64
    with pytest.raises(ConfigError, match=r"patience_s of 0.0; expected more than 0"):
        PromoterOptions(patience_s=0.0)
