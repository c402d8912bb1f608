"""A forecast scales hand-made figures as one would by hand."""

from dataclasses import replace

import pytest

from data_prep.forecast import Estimate, Forecast, InputGroup, SampledUnit, forecast, forecast_text

MB = 1_000_000
WEB = InputGroup(
    source="web", kind="jsonl", compression=".zst", size_bytes=400 * MB, num_units=100, largest_unit_bytes=4 * MB
)
CODE = InputGroup(
    source="code", kind="text", compression="", size_bytes=100 * MB, num_units=10, largest_unit_bytes=10 * MB
)


def unit(group: InputGroup, input_bytes: int, *, tokens: int | None = None) -> SampledUnit:
    """A unit that makes a token of two bytes, a document of each 1,000 and keeps half, and takes a second a MB to read."""
    return SampledUnit(
        source=group.source,
        kind=group.kind,
        compression=group.compression,
        input_bytes=input_bytes,
        documents_read=input_bytes // 1000,
        documents_kept=input_bytes // 2000,
        text_bytes=input_bytes * 2,
        num_tokens=input_bytes // 2 if tokens is None else tokens,
        work_bytes=input_bytes * 3,
        stage_s={"refine": input_bytes / MB, "encode": input_bytes / MB / 2, "shards": input_bytes / MB / 10},
        peak_bytes=300 * MB,
    )


def forecast_of(groups: list[InputGroup], samples: list[SampledUnit], workers: int = 4, **changes: float) -> Forecast:
    return forecast(
        groups,
        samples,
        workers=workers,
        sequence_length=1024,
        token_dtype="uint16",
        shard_bytes=256 * MB,
        **changes,  # type: ignore[arg-type]
    )


def test_figures_grow_with_the_input() -> None:
    found = forecast_of([WEB, CODE], [unit(WEB, 4 * MB), unit(WEB, 2 * MB), unit(CODE, 10 * MB)], fixed_s=5)
    assert found.input_bytes == 500 * MB
    assert (found.units, found.sampled_units) == (110, 3)
    assert found.documents_read.value == pytest.approx(500_000)
    assert found.documents_kept.value == pytest.approx(250_000)
    assert found.num_tokens.value == pytest.approx(250 * MB)
    assert found.text_bytes.value == pytest.approx(1000 * MB)
    assert found.work_bytes.value == pytest.approx(1500 * MB)
    assert found.output_bytes.value == pytest.approx(250 * MB / 1024 * 2560)
    assert found.num_tokens.error == pytest.approx(0)  # the samples agree to the token
    assert found.seconds.value == pytest.approx(5 + 500 / 4 + 250 / 4 + 50 / 3)


def test_each_kind_of_input_has_its_own_ratio() -> None:
    found = forecast_of([WEB, CODE], [unit(WEB, 4 * MB, tokens=8 * MB), unit(CODE, 10 * MB, tokens=MB)])
    assert found.num_tokens.value == pytest.approx(800 * MB + 10 * MB)


def test_tasks_are_units_and_shards() -> None:
    # web: 200 M tokens, 195,313 sequences of 2,560 bytes, 99,999 a shard; code: 50 M tokens, 48,829 sequences.
    found = forecast_of([WEB, CODE], [unit(WEB, 4 * MB), unit(CODE, 10 * MB)])
    assert found.stage_tasks == {"refine": 110, "encode": 110, "shards": 3}


def test_the_spread_is_that_of_the_samples() -> None:
    # Two of 100 units of 4 MB; tokens 1 M and 3 M, so 2 M a unit with a variance of 2 M**2 and 98 % not looked at.
    samples = [unit(WEB, 4 * MB, tokens=1 * MB), unit(WEB, 4 * MB, tokens=3 * MB)]
    found = forecast_of([WEB], samples)
    assert found.num_tokens.value == pytest.approx(200 * MB)
    assert found.num_tokens.error == pytest.approx(100 * (0.98 * 2 / 2) ** 0.5 * MB)


def test_what_was_done_for_real_has_no_spread() -> None:
    group = replace(WEB, size_bytes=8 * MB, num_units=2)
    found = forecast_of([group], [unit(WEB, 4 * MB, tokens=MB), unit(WEB, 4 * MB, tokens=3 * MB)])
    assert found.num_tokens == Estimate(value=4 * MB, error=0)


def test_one_sample_of_each_tells_no_spread() -> None:
    found = forecast_of([WEB, CODE], [unit(WEB, 4 * MB), unit(CODE, 10 * MB)])
    assert found.num_tokens.error is None
    assert found.seconds.error is None
    assert "No spread" in forecast_text(found)


def test_a_kind_without_a_sample_is_scaled_by_its_source_and_named() -> None:
    plain = replace(WEB, compression="", size_bytes=100 * MB)
    samples = [unit(WEB, 4 * MB, tokens=4 * MB), unit(WEB, 4 * MB, tokens=6 * MB), unit(CODE, 10 * MB, tokens=MB)]
    found = forecast_of([plain, CODE], samples)
    assert found.num_tokens.value == pytest.approx(125 * MB + 10 * MB)
    assert found.unsampled == (("web", "jsonl", ""),)
    assert "No unit of web (jsonl) was sampled" in forecast_text(found)


def test_more_workers_than_tasks_do_not_help() -> None:
    samples = [unit(WEB, 4 * MB), unit(WEB, 4 * MB)]
    assert forecast_of([WEB], samples, 100).stage_s["refine"] == pytest.approx(4)
    assert forecast_of([WEB], samples, 1000).stage_s["refine"] == pytest.approx(4)
    assert forecast_of([WEB], samples, 50).stage_s["refine"] == pytest.approx(8)
    assert forecast_of([WEB], samples, 1000).peak_bytes == 100 * 300 * MB


def test_a_stage_takes_as_long_as_its_largest_unit() -> None:
    whole_file = replace(WEB, num_units=2, largest_unit_bytes=399 * MB)
    assert forecast_of([whole_file], [unit(WEB, 4 * MB)]).stage_s["refine"] == pytest.approx(399)


def test_memory_is_that_of_the_workers_and_the_driver() -> None:
    assert forecast_of([WEB], [unit(WEB, 4 * MB)], fixed_bytes=500 * MB).peak_bytes == 1700 * MB


def test_empty_units_are_no_error() -> None:
    empty = replace(WEB, size_bytes=0)
    assert forecast_of([empty], [unit(WEB, 0), unit(WEB, 0)]).num_tokens == Estimate(value=0, error=0)


def test_the_text_is_a_table() -> None:
    samples = [unit(WEB, 4 * MB, tokens=1 * MB), unit(WEB, 4 * MB, tokens=3 * MB), unit(CODE, 10 * MB)]
    # The code was sampled once: it varies as the web does, 1 / 50 of 100 units and 1 / 10 of 10 being known.
    lines = forecast_text(forecast_of([WEB, CODE], samples, fixed_s=6)).splitlines()
    assert lines[0] == "input                500 MB  110 units, 3 sampled"
    assert lines[4] == "tokens          250 million  50.2 million to 450 million"
    assert lines[7] == "memory               1.2 GB  4 workers at most together"
    assert lines[8] == "time                  4 min"
    assert lines[10:] == [
        "stage   tasks   time",
        "refine    110  2 min",
        "encode    110   62 s",
        "shards      3   17 s",
    ]
