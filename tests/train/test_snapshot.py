"""What is written is what the state was when it was saved, in a format that others read."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.train import snapshot as module
from pipeline.train.snapshot import snapshot, write_tensors


@pytest.mark.parametrize("piece_bytes", [7, 1 << 20])
def test_a_file_is_safetensors_and_its_record_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int
) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", piece_bytes)
    tensors = {
        "a/0/b": torch.randn(3, 5),
        "half": torch.randn(7).bfloat16(),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0),
    }
    record = write_tensors(tmp_path / "file", tensors)
    data = (tmp_path / "file").read_bytes()
    assert (record.size_bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].shape == tensor.shape
        assert torch.equal(read[name], tensor)


def test_a_snapshot_does_not_follow_the_live_state_and_keeps_its_buffers() -> None:
    live, buffers = {"weight": torch.ones(4, requires_grad=True)}, {}
    snapshot(live, buffers)
    with torch.no_grad():
        live["weight"].zero_()
    assert buffers["weight"].tolist() == [1, 1, 1, 1]
    place = buffers["weight"].data_ptr()
    snapshot(live, buffers)
    assert buffers["weight"].tolist() == [0, 0, 0, 0]
    assert buffers["weight"].data_ptr() == place
