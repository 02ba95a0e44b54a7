"""Splits against their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nasfw.tasks.splits import split, strata


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 99),
)
def test_every_class_keeps_its_share_up_to_one_sample(counts, fraction, seed):
    y = np.repeat(np.arange(len(counts)), counts)
    if len(y) < 8 or max(counts) < 3:
        return
    rest, held = split(np.arange(len(y)), y, fraction, np.random.default_rng(seed), None, "test")
    assert sorted([*rest, *held]) == list(range(len(y)))
    taken = np.bincount(y[held], minlength=len(counts))
    assert (np.abs(taken - np.array(counts) * fraction) <= 1).all()
    assert (taken < counts).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 999), st.integers(6, 40), st.integers(1, 4))
def test_groups_are_whole_and_shares_are_approached(seed, number, classes):
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(number * 10) % number)
    y = rng.integers(0, classes, number * 10)
    rest, held = split(np.arange(len(y)), y, 0.25, rng, groups, "valid")
    assert not set(groups[rest]) & set(groups[held])
    assert abs(len(held) / len(y) - 0.25) <= 0.2
    assert set(y[held]) <= set(y[rest])


def test_rarest_label_is_the_stratum_of_a_sample():
    y = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert strata(y, "multilabel").tolist() == [1, 2, 3, 0]
    assert strata(np.zeros((4, 1)), "regression").tolist() == [0] * 4


@pytest.mark.parametrize("seed", range(5))
def test_rare_labels_are_in_both_parts(seed):
    y = np.zeros((200, 3), int)
    y[:, 0] = 1
    y[:10, 1] = 1
    rest, held = split(
        np.arange(200), strata(y, "multilabel"), 0.2, np.random.default_rng(seed), None, "test"
    )
    assert y[held][:, 1].sum() == 2
    assert y[rest][:, 1].sum() == 8
