"""One pass from encoded documents to a stream, against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.errors import DataMistake
from data_prep.stream import token_stream

END = 7
DOCUMENTS = st.lists(st.lists(st.integers(8, 60_000), max_size=5), max_size=6)


@settings(deadline=None)  # compiles once
@given(DOCUMENTS, st.randoms(use_true_random=False), st.sampled_from(["uint16", "uint32"]))
def test_it_is_the_documents_in_order_each_with_its_end(
    documents: list[list[int]], random: np.random.Generator, dtype: str
) -> None:
    order = [place for place in range(len(documents)) if random.random() < 0.8]
    random.shuffle(order)
    lengths = np.array([len(one) for one in documents], dtype=np.int64)
    tokens = np.array([token for one in documents for token in one], dtype=np.uint32)
    stream = token_stream(tokens, lengths, np.array(order, dtype=np.int64), END, dtype)
    assert stream.dtype == dtype
    assert stream.tolist() == [token for place in order for token in (*documents[place], END)]


def test_an_end_of_text_from_text_is_a_mistake() -> None:
    tokens, lengths = np.array([1, 2, END, 3], dtype=np.uint32), np.array([2, 2], dtype=np.int64)
    with pytest.raises(DataMistake, match="makes its end of text from ordinary text"):
        token_stream(tokens, lengths, np.array([0, 1]), END, "uint16")
    assert token_stream(tokens, lengths, np.array([0]), END, "uint16").tolist() == [1, 2, END]
