"""Held-out documents: by hash, some if there can be some, and never all."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.heldout import extremes, find_bound, held_out
from data_prep.parts import KEYS

# Few and far apart keys: left alone, hypothesis draws nearly all of them below every fraction.
key = st.sampled_from([0, 1, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1])
document = st.tuples(key, st.integers(0, 1), st.integers(0, 1))


def table(documents: list[tuple[int, int, int]]) -> np.ndarray:
    array = np.zeros(len(documents), dtype=KEYS)
    for field, values in zip(("heldout", "high", "low"), zip(*documents, strict=True), strict=False):
        array[field] = values
    return array


@given(st.lists(document, max_size=8), st.sampled_from([0.001, 0.3, 0.5, 0.999]), st.integers(1, 7))
def test_some_are_held_out_but_not_all_and_parts_do_not_matter(
    documents: list[tuple[int, int, int]], fraction: float, size: int
) -> None:
    parts = [table(documents[i : i + size]) for i in range(0, len(documents), size)]
    bound = find_bound(fraction, map(extremes, parts))
    assert bound == find_bound(fraction, [extremes(table(documents))])
    assert bound == find_bound(fraction, map(extremes, parts[::-1]))
    out = held_out(table(documents), bound)
    different = set(documents)
    if len(different) < 2:
        assert not out.any()
    else:
        assert out.any()
        assert not out.all()
        by_fraction = {one for one in different if one[0] <= int(fraction * 2**64)}
        chosen = {one for one, is_out in zip(documents, out, strict=True) if is_out}
        if by_fraction and by_fraction != different:
            assert chosen == by_fraction
        else:
            assert chosen == ({max(by_fraction)} ^ by_fraction if by_fraction else {min(different)})


def test_a_fraction_of_zero_holds_out_nothing() -> None:
    assert find_bound(0, [extremes(table([(0, 0, 0), (1, 0, 0)]))]) is None
