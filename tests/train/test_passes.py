"""What DeepSpeed no longer does with gradients: the bits are those that it makes by itself."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.train.passes import BLOCK, as_one, l2_norm
from tests.train.small_runs import start_script


def test_tensors_end_to_end_are_one_without_a_copy() -> None:
    bucket = torch.arange(12.0)
    parts = [bucket[2:6].view(2, 2), bucket[6:7], bucket[7:12]]
    one = as_one(parts)
    assert one is not None
    assert one.tolist() == bucket[2:].tolist()
    assert one.data_ptr() == parts[0].data_ptr()
    assert as_one([bucket]) is not None


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([torch.ones(2), torch.ones(2)], id="of two storages"),
        pytest.param([torch.arange(6.0)[:2], torch.arange(6.0)[2:]], id="of two storages, where one would go on"),
        pytest.param(list(torch.arange(6.0).split(2))[::2], id="a gap"),
        pytest.param(list(torch.arange(6.0).split(2))[::-1], id="backwards"),
        pytest.param([torch.arange(6.0).view(2, 3).t()], id="transposed"),
    ],
)
def test_tensors_that_do_not_lie_end_to_end_are_left(parts: list[torch.Tensor]) -> None:
    assert as_one(parts) is None


@pytest.mark.parametrize("shape", [(), (1,), (0,), (7, 5), (BLOCK,), (3, BLOCK + 1)])
def test_the_norm_by_blocks_is_that_of_the_whole(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    found = l2_norm(tensor)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(float(torch.linalg.vector_norm(tensor.double())), rel=1e-14)
    assert torch.linalg.vector_norm(found) == found, "DeepSpeed takes the norm of the norm"


def test_a_norm_of_what_is_no_number_is_none() -> None:
    assert l2_norm(torch.tensor([1.0, torch.inf])).isinf()
    assert l2_norm(torch.tensor([1.0, torch.nan])).isnan()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_training_has_the_bits_of_deepspeed_alone(ranks: int, tmp_path: Path) -> None:
    """Losses, norms and weights of steps with accumulation. Over three ranks groups are padded and tensors cut."""
    process = start_script(Path(__file__).with_name("spared_passes.py"), tmp_path / "told", ranks=ranks)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    ways = json.loads((tmp_path / "told").read_text())
    for way, told in ways.items():
        assert told["ours"] == told["deepspeed"], way
    without_copies = {way for way, told in ways.items() if told["flat"] == 2}  # matrices and vectors
    assert {"fp32", "fp32, no clipping"} <= without_copies
    assert not without_copies & {"fp32, several buckets", "fp32, Muon", "fp32, offloaded", "bf16", "stage 2, fp32"}
