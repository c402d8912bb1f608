from hypothesis import given
from hypothesis import strategies as st

from pipeline.monitor.redact import without_secrets


def test_secrets_are_hidden_by_name() -> None:
    config = {
        "train": {"tokens": 1000, "lr": 0.1},
        "tokenizer": {"path": "tokenizer.json"},
        "num_tokens": 3,
        "hf_token": "hf_abc",
        "nested": [{"apiKey": "x", "AWS_SECRET_ACCESS_KEY": "y", "password": None}],
    }
    assert without_secrets(config) == {
        "train": {"tokens": 1000, "lr": 0.1},
        "tokenizer": {"path": "tokenizer.json"},
        "num_tokens": 3,
        "hf_token": "***",
        "nested": [{"apiKey": "***", "AWS_SECRET_ACCESS_KEY": "***", "password": None}],
    }


def test_secrets_are_hidden_in_urls() -> None:
    assert without_secrets("s3://user:pass@host/bucket") == "s3://***@host/bucket"
    assert without_secrets("https://host/a?X-Amz-Signature=abc&part=1") == "https://host/a?X-Amz-Signature=***&part=***"
    assert without_secrets("s3://bucket/part-?.jsonl") == "s3://bucket/part-?.jsonl"
    assert without_secrets("corpus/code/**/*.py") == "corpus/code/**/*.py"


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=9)
)
def test_hiding_twice_hides_no_more(value: object) -> None:
    once = without_secrets(value)
    assert without_secrets(once) == once
