"""What goes by the losses follows them, in every kind of pool, and leaves no region out.

How centroids start and move was chosen on the first three kinds and on "losses differ in a cluster"; the others are
held out.
"""

from dataclasses import replace

import pytest
import torch
from clustered_pools import CLUSTERS, KINDS, clustered

from vecaf_hf.selection import STRATEGIES, SelectionOptions, run_strategy

BUDGET = 200
# What such a strategy may need: rho_loss goes by a difference of losses.
ALONE = {"embeddings", "losses"}
FOLLOWING = [name for name, one in STRATEGIES.items() if "losses" in one.needs and one.needs <= ALONE]
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def selected(strategy: str, pool, **options):
    chosen = SelectionOptions(strategy=strategy, loss_weighting="raw", allocation="global", **options)
    return run_strategy(STRATEGIES[strategy], pool, BUDGET, chosen, seed=0)


@every_kind
@pytest.mark.parametrize("strategy", FOLLOWING)
def test_a_strategy_that_goes_by_the_losses_follows_them(strategy, kind):
    pool, _ = clustered(kind)
    assert selected(strategy, pool).info["following"] >= 0.7


@every_kind
def test_ods_stays_on_the_data_and_leaves_no_cluster_out(kind):
    pool, cluster = clustered(kind)
    found = selected("ods", pool)
    assert found.info["occupied"] >= 0.95
    assert len(cluster[found.indices].unique()) == CLUSTERS


@every_kind
def test_a_start_that_follows_the_losses_ends_lower_than_a_uniform_one(kind):
    pool, _ = clustered(kind)
    ours, uniform = (selected("ods", pool, centroid_start=start).info for start in ("k-means++", "random"))
    assert ours["objective_end"] < uniform["objective_end"]
    assert ours["following"] > uniform["following"]


def test_a_selection_without_losses_does_not_follow_them():
    pool, _ = clustered(KINDS["wide"])
    for strategy in ("activeft", "random"):
        assert abs(selected(strategy, pool).info["following"]) < 0.25


def test_by_class_it_follows_the_losses_in_each_class():
    pool, cluster = clustered(KINDS["wide"])
    labels = cluster % 4
    options = SelectionOptions(strategy="ods", loss_weighting="raw", allocation="class")
    found = run_strategy(STRATEGIES["ods"], replace(pool, labels=labels), BUDGET, options, seed=0)
    chosen = torch.zeros(len(pool), dtype=torch.bool)
    chosen[found.indices] = True
    hard = cluster < KINDS["wide"].hard * CLUSTERS
    following = []
    for label in range(4):
        of_class = labels == label
        assert int((chosen & of_class).sum()) == BUDGET // 4
        share, mass = hard[of_class].float().mean(), pool.losses[of_class & hard].sum() / pool.losses[of_class].sum()
        following.append(float((hard[of_class & chosen].float().mean() - share) / (mass - share)))
    # Fifty samples of a class tell it with an error of a tenth.
    assert min(following) >= 0.5 and sum(following) / 4 >= 0.7
