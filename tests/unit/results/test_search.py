"""The search: three values for every method, on a seed of its own, and the comparison uses one of them."""

from collections import Counter
from dataclasses import replace

import pytest

from lwd.errors import ConfigError
from lwd.recipes.fast import metaworld
from lwd.recipes.methods import METHODS
from lwd.recipes.search import CANDIDATES, metaworld_search, used
from lwd.results.plan import MAIN_SEEDS, SEARCH, plan


def test_every_method_has_the_same_budget_and_one_value_is_its_own():
    tried = Counter(one.method for one in CANDIDATES)
    assert set(tried) == set(METHODS)
    assert set(tried.values()) <= {3, 4}
    assert Counter(one.method for one in used(metaworld_search())) == dict.fromkeys(METHODS, 1)


def test_nothing_is_chosen_on_a_seed_that_is_compared():
    seeds = {cell.experiment.seed for cell in plan(SEARCH)}
    assert len(seeds) == 1
    assert not seeds & set(range(MAIN_SEEDS))


def test_a_candidate_changes_its_setting_in_both_stages_and_nothing_else():
    x = metaworld_search()
    own = used(x)
    for one in CANDIDATES:
        found, plain = one(x), METHODS[one.method](x)
        changed = (
            found.offline.learner != plain.offline.learner,
            found.online.learner != plain.online.learner,
        )
        assert changed == (one not in own, one not in own), one.name
        offline, online = (
            replace(found.offline, learner=plain.offline.learner),
            replace(found.online, learner=plain.online.learner),
        )
        assert replace(found, name=plain.name, offline=offline, online=online) == plain


def test_what_learns_offline_is_searched_offline_alone():
    stages = {cell.method: cell.stages for cell in plan(SEARCH)}
    assert stages["lwd-temperature-0.02"] == ("offline",)
    assert stages["hg_dagger-learning_rate-0.001"] == ("offline", "online")


def test_a_default_that_was_not_searched_is_refused():
    others = [replace(one, value=7.0) if one.method == "awac" else one for one in CANDIDATES]
    with pytest.raises(ConfigError, match="awac's own beta is not among"):
        used(metaworld(), others)
