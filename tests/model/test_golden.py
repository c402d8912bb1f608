"""Today's numbers are yesterday's: with all options off, losses and digests are those from before there were any."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data_prep.files import digest
from pipeline.config import MODEL_EXECUTION, MODEL_OPTIONS, ModelConfig, OptimizerConfig, model_shaping
from pipeline.errors import CorruptCheckpoint
from pipeline.model.decoder import build
from pipeline.train.checkpoint import read_checkpoint
from pipeline.train.optim import adamw, decay_groups

SHAPE = ModelConfig(layers=2, width=32, heads=4, kv_heads=2)
# torch 2.13.0, one thread, commit d1401f4: before chunked loss, flex_attention, recomputing and the options.
GOLDEN = {
    False: [4.135070323944092, 4.130675792694092, 4.041184425354004, 4.085162162780762, 4.037722110748291],
    True: [4.15478515625, 4.092502117156982, 4.103145599365234, 4.098013877868652, 4.013448238372803],
}
WAYS: list[dict[str, Any]] = [
    {},
    {"recompute": "attention"},
    {"recompute": "block"},
    {"recompute": "block", "recompute_every": 2},
    {"loss_chunk_size": 7},
    {"loss_chunk_size": 1000, "recompute": "block"},
]


def losses_of(config: ModelConfig) -> list[float]:
    """Of five steps on random tokens, with several documents a row."""
    model = build(config, 50, 0, seed=0)
    optimizer = adamw(model, OptimizerConfig(lr=1e-2))
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(5):
        loss = model(torch.randint(0, 50, (4, 64), generator=generator), loss=True).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_losses_are_those_recorded_whichever_way_they_are_computed(way: dict[str, Any], tied: bool) -> None:
    found = losses_of(replace(SHAPE, tie_embeddings=tied, **way))
    assert found == pytest.approx(GOLDEN[tied], rel=0, abs=1e-6 if not way else 5e-6)


def test_a_checkpoint_from_before_the_options_matches_its_own_digest(tmp_path: Path) -> None:
    """Its record, as it was written then; what is said since then by a field that is on is covered."""
    model = {key: value for key, value in asdict(SHAPE).items() if key not in {*MODEL_EXECUTION, *MODEL_OPTIONS}}
    position = {"manifest_digest": "m", "order_version": 1, "seed": 0, "next_sequence": 8}
    record = {
        **{"run": "r", "step": 1, "tokens": 8, "position": position, "config_digest": "c", "world_size": 1},
        **{"zero_stage": 1, "precision": "fp32", "model": model, "vocab_size": 50, "end_of_text_id": 0},
        **{"sequence_length": 8, "tokenizer_sha256": "t", "corpus": "n", "files": {}, "digest": ""},
    }
    record["digest"] = digest(record)
    (tmp_path / "checkpoint.json").write_text(json.dumps(record))
    found = read_checkpoint(tmp_path)
    assert (found.digest, found.model) == (record["digest"], SHAPE)
    for on in ({"z_loss": 1e-4}, {"recompute": "block"}):
        (tmp_path / "checkpoint.json").write_text(json.dumps(record | {"model": model | on}))
        with pytest.raises(CorruptCheckpoint, match="own digest"):
            read_checkpoint(tmp_path)
    position["skipped"] = [{"first": 0, "count": 4}]
    (tmp_path / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CorruptCheckpoint, match="own digest"):
        read_checkpoint(tmp_path)


def test_what_shapes_the_weights_is_as_before_until_an_option_is_on() -> None:
    """The digest of a run begun before the options stands, so it may resume, also with another way to compute."""
    before = {"layers", "width", "heads", "kv_heads", "mlp_width", "tie_embeddings", "rope_theta", "norm_eps", "arch"}
    faster = replace(SHAPE, recompute="block", recompute_every=2, loss_chunk_size=64, compile="block")
    assert {f.name for f in fields(ModelConfig)} == before | {*MODEL_EXECUTION, *MODEL_OPTIONS}, "a list for each field"
    assert model_shaping(SHAPE).keys() == model_shaping(faster).keys() == before
    for on in ({"qk_norm": True}, {"logit_soft_cap": 30.0}, {"z_loss": 1e-4}, {"base_width": 16}):
        assert model_shaping(replace(SHAPE, **on)).keys() - before == on.keys()  # type: ignore[arg-type]


def test_engine_states_find_their_parameter_groups() -> None:
    model = build(SHAPE, 50, 0, seed=0)
    matrices, vectors = decay_groups(model, 0.1)
    assert [id(p) for p in matrices["params"]] == [id(p) for p in model.parameters() if p.ndim >= 2]
    assert [id(p) for p in vectors["params"]] == [id(p) for p in model.parameters() if p.ndim < 2]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert (matrices["lr_multiplier"], vectors["lr_multiplier"]) == (1.0, 1.0)
