"""Manifests: numbered, immutable, growing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_cases import Fleet, make_episode, open_fleet

from lwd.errors import StoreError
from lwd.log import manifest
from lwd.log.deletion import delete


def test_numbers_parents_and_membership(fleet: Fleet):
    assert manifest.latest(fleet.catalogue) is None
    assert fleet.coordinator.commit() is None
    sent = []
    for count in (2, 3):
        for _ in range(count):
            episode = make_episode(3)
            fleet.send_episode(episode)
            sent.append(episode.header.episode_id)
        fleet.drain()
        fleet.coordinator.commit()
    assert fleet.coordinator.commit() is None  # nothing new, no number used
    first, second = manifest.manifests(fleet.catalogue)
    assert (first.number, first.parent, first.episodes) == (1, None, 2)
    assert (second.number, second.parent, second.episodes) == (2, 1, 5)
    assert manifest.latest(fleet.catalogue) == second
    assert manifest.read(fleet.catalogue, 1) == first
    assert [row.episode_id for row in manifest.members(fleet.catalogue, second)] == sent
    assert [row.episode_id for row in manifest.members(fleet.catalogue, first)] == sent[:2]
    added = manifest.members(fleet.catalogue, second, after_seq=first.upto_seq)
    assert [row.episode_id for row in added] == sent[2:]
    row = added[0]
    assert row.key == f"episodes/{row.episode_id}/{row.sha256}"
    assert len(fleet.objects.get(row.key)) == row.size


def test_a_manifest_does_not_count_what_was_deleted_before_it(fleet: Fleet):
    for name in ("a", "b", "c"):
        fleet.send_episode(make_episode(2, episode_id=name))
    fleet.drain()
    fleet.coordinator.commit()
    for name in ("a", "b"):
        delete(fleet.catalogue, fleet.objects, name, reason="blurred", deleted_by="kim")
    fleet.send_episode(make_episode(2, episode_id="d"))
    fleet.drain()
    found = fleet.coordinator.commit()
    assert found is not None
    held = manifest.members(fleet.catalogue, found)
    assert [row.episode_id for row in held] == ["c", "d"]
    assert found.episodes == 2


def test_an_unknown_number_says_which_is_newest(fleet: Fleet):
    with pytest.raises(StoreError, match="manifest 4 does not exist; the newest is None"):
        manifest.read(fleet.catalogue, 4)


@given(rounds=st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(max_examples=8, deadline=None)
def test_manifests_only_grow(tmp_path_factory, rounds):
    with open_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        frozen: dict[manifest.Manifest, list[str]] = {}
        for count in rounds:
            for _ in range(count):
                fleet.send_episode(make_episode(2))
            fleet.drain()
            committed = fleet.coordinator.commit()
            assert (committed is None) == (count == 0)
            if committed is not None:
                assert committed.number == len(frozen) + 1
                frozen[committed] = [row.episode_id for row in manifest.members(fleet.catalogue, committed)]
                assert committed.episodes == len(frozen[committed])
        for committed, ids in frozen.items():
            assert [row.episode_id for row in manifest.members(fleet.catalogue, committed)] == ids


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "delete", "commit"]), st.integers(0, 9)), min_size=1, max_size=20
    )
)
@settings(max_examples=15, deadline=None)
def test_a_manifest_counts_what_is_catalogued_whatever_was_deleted_when(tmp_path_factory, steps):
    with open_fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        for what, number in [*steps, ("add", 0), ("commit", 0)]:
            rows = fleet.catalogue.episodes()
            if what == "add":
                fleet.send_episode(make_episode(2))
                fleet.drain()
            elif what == "delete" and rows:
                name = rows[number % len(rows)].episode_id
                delete(fleet.catalogue, fleet.objects, name, reason="blurred", deleted_by="kim")
            elif what == "commit" and (committed := fleet.coordinator.commit()) is not None:
                assert committed.episodes == len(rows)
