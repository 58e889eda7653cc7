"""Prompt pairs refuse what cannot be patched, and sets group, select and pair them."""

from dataclasses import replace

import numpy as np
import pytest

from babelscope.errors import TaskError
from babelscope.tasks import Census, PromptPair, PromptSet


def pair(item=0, length=4, **changes):
    fields = dict(
        item=item,
        language="en",
        template="t01",
        order="ABBA" if item % 2 == 0 else "BABA",
        stratum="",
        split="strict",
        clean=tuple(range(length)),
        corrupted=tuple(range(10, 10 + length)),
        clean_text="",
        corrupted_text="",
        target=(1,),
        foil=(2,),
        roles={"IO": (0, 1), "END": (length - 1, length)},
    )
    return PromptPair(**{**fields, **changes})


def prompts(*pairs):
    return PromptSet(tuple(pairs), "en", "ioi", "pabc", Census("ioi", "strict", "pabc", {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupted": (1, 2)}, r"equally long, got 4 and 2 tokens"),
        ({"foil": (1,)}, r"target and foil are the same tokens \(1,\)"),
        ({"target": ()}, r"at least one token"),
        ({"roles": {"S2": (3, 5)}}, r"role S2 at tokens 3–5 lies outside its 4 tokens"),
        ({"roles": {"S2": (2, 2)}}, r"role S2"),
    ],
)
def test_a_pair_that_cannot_be_patched_is_refused(changes, message):
    with pytest.raises(TaskError, match=message):
        pair(**changes)


def test_a_role_that_does_not_exist_names_those_that_do():
    with pytest.raises(TaskError, match=r"no role 'S3' in en t01; there are IO, END"):
        pair().role("S3")
    with pytest.raises(TaskError, match=r"there are IO, END"):
        prompts(pair()).positions("S3")


def test_groups_are_of_one_length_and_complete():
    three = prompts(pair(0, 4), pair(1, 6), pair(2, 4))
    assert three.by_length() == [[0, 2], [1]]
    assert three.subset([0, 2]).arrays()["input_ids"].shape == (2, 4)


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(TaskError, match=r"2 different lengths \(4 to 6 tokens\).*by_length"):
        prompts(pair(0, 4), pair(1, 6)).arrays()
    with pytest.raises(TaskError, match="no prompt pair"):
        prompts().arrays()


def test_shorter_targets_are_filled_with_minus_one():
    arrays = prompts(pair(0), pair(1, target=(5, 6, 7))).arrays()
    assert arrays["target"].tolist() == [[1, -1, -1], [5, 6, 7]]
    assert arrays["corrupted_ids"].dtype == np.int64


def test_subset_by_indices_by_mask_and_by_field():
    three = prompts(pair(0), pair(1), pair(2))
    assert three.subset([2, 0]).items == (2, 0)
    assert three.subset([True, False, True]).items == (0, 2)
    assert three.subset(np.array([False, True, False])).items == (1,)
    assert three.where(order="BABA").items == (1,)
    assert len(three.subset([])) == 0
    for which, message in (([3], "pair 3 does not exist"), ([True], "mask over 3 pairs needs 3 entries")):
        with pytest.raises(TaskError, match=message):
            three.subset(which)
    with pytest.raises(TaskError, match="no field 'colour'"):
        three.where(colour=1)


def test_positions_are_the_first_or_the_last_token_of_a_role():
    two = prompts(pair(0, roles={"IO": (0, 2)}), pair(1, roles={"IO": (1, 3)}))
    assert two.positions("IO").tolist() == [1, 2]
    assert two.positions("IO", "first").tolist() == [0, 1]
    assert two.roles == ("IO",)


def test_sets_are_paired_by_item():
    here, there = prompts(pair(4), pair(7), pair(9)), prompts(pair(9), pair(3), pair(4))
    assert here.paired_with(there) == ([0, 2], [2, 0])


def test_pairs_are_frozen():
    with pytest.raises(AttributeError):
        pair().item = 3  # type: ignore[misc]
    assert replace(pair(), item=3).item == 3
