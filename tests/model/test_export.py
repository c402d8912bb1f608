"""transformers loads what we export, and computes what we compute: the same ids, the same logits, the same text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, processors

from data_prep.small import byte_tokenizer
from data_prep.tokenizer import Encoder, describe
from data_prep.tokenizer import train as train_tokenizer
from pipeline.config import ModelConfig
from pipeline.errors import Mistake
from pipeline.model.decoder import Decoder, build
from pipeline.model.export import (
    divided,
    generation_config,
    llama_config,
    llama_names,
    opening_tokenizer,
    token_of,
    tokenizer_config,
    write_weights,
)
from pipeline.model.generate import generate

CONTEXT = 24
TEXT = "The mill's wheel turns; 4096 sacks of flour — naïve, ½ price.\n\n\tdef grind(grain): return 'flour' * 2\n"
TEXTS = ["", " ", "a", TEXT, "<|endoftext|>", "a<|endoftext|>b <|endoftext|> ", " lead", "日本語 🌊", "the  mill\r\n"]
SHAPES = {
    "plain": {"heads": 4},
    "grouped": {"heads": 4, "kv_heads": 2, "rope_theta": 500_000.0, "norm_eps": 1e-6},
    "tied": {"heads": 8, "kv_heads": 1, "tie_embeddings": True, "mlp_width": 96},
    "query and key norms": {"heads": 4, "kv_heads": 2, "qk_norm": True, "z_loss": 1e-4, "recompute": "block"},
}


def trained() -> bytes:
    return train_tokenizer([TEXT * 5], 300, "<|endoftext|>")


def somebody_elses() -> bytes:
    """With habits of its own: cuts, pads, another special token, an end that is not first, a template at the end."""
    tokenizer = Tokenizer.from_str(trained().decode())
    tokenizer.add_special_tokens([AddedToken("<|other|>", special=True)])
    tokenizer.add_tokens([AddedToken("wheel", special=False)])
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
    )
    return str(tokenizer.to_str()).encode()


TOKENIZERS = {"bytes": byte_tokenizer, "trained": trained, "somebody else's": somebody_elses}


def exported(folder: Path, model: Decoder, tokenizer_json: bytes) -> Path:
    """The model in the Hugging Face layout, by the mappings alone."""
    weights = folder / "ours.safetensors"
    save_file({name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}, weights)
    folder = folder / "export"
    folder.mkdir()
    header = write_weights(weights, folder / "model.safetensors", model.config)
    tokenizer, end = json.loads(tokenizer_json), model.end_of_text_id
    for name, content in (
        ("config", llama_config(model.config, header, end, CONTEXT)),
        ("generation_config", generation_config(end)),
        ("tokenizer", opening_tokenizer(tokenizer, end)),
        ("tokenizer_config", tokenizer_config(token_of(tokenizer, end), CONTEXT)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def model_of(shape: str, vocab_size: int = 300, end: int = 0) -> Decoder:
    config = ModelConfig(layers=3, width=64, **SHAPES[shape])  # type: ignore[arg-type]
    return with_gains(build(config, vocab_size, end, seed=5).eval(), "query_norm.weight", "key_norm.weight")


def with_gains(model: Decoder, *endings: str) -> Decoder:
    """Of norms of these names: gains of 1 would hide a norm in the wrong place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(endings):
                parameter.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(name)))
    return model


def widened(ratio: int, *, tied: bool) -> Decoder:
    """A model that was trained with another width's learning rate."""
    config = ModelConfig(layers=2, width=96, heads=6, kv_heads=2, tie_embeddings=tied, base_width=96 // ratio)
    return with_gains(build(config, 300, 0, seed=5).eval(), "norm.weight")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_transformers_computes_our_logits(shape: str, tmp_path: Path) -> None:
    """The proof that nothing needs permuting: a wrong rotary layout or a transposed matrix would differ by far more."""
    from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen3ForCausalLM

    ours = model_of(shape)
    folder = exported(tmp_path, ours, trained())
    theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert isinstance(theirs, Qwen3ForCausalLM if ours.config.qk_norm else LlamaForCausalLM)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens_BT = torch.randint(1, 300, (4, CONTEXT))
    tokens_BT[:, 0] = 0
    expected, found = ours(tokens_BT), theirs(tokens_BT).logits
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    assert expected.std() > 0.1, "the bound above must mean something"


@pytest.mark.parametrize(
    ("ratio", "tied", "precision"),
    [
        *[(ratio, tied, torch.float32) for ratio in (4, 3) for tied in (False, True)],
        (4, False, torch.bfloat16),
    ],
)
@torch.inference_mode()
def test_logits_divided_by_a_ratio_of_widths_are_what_transformers_computes(
    ratio: int, tied: bool, precision: torch.dtype, tmp_path: Path
) -> None:
    """What was saved in bf16 is computed in fp32 here, or its own rounding would hide ours."""
    from transformers import AutoModelForCausalLM

    ours = widened(ratio, tied=tied).to(precision)
    theirs = AutoModelForCausalLM.from_pretrained(exported(tmp_path, ours, trained()), dtype=torch.float32)
    tokens_BT = torch.randint(1, 300, (4, CONTEXT))
    tokens_BT[:, 0] = 0
    expected = ours.float()(tokens_BT)
    torch.testing.assert_close(theirs(tokens_BT).logits, expected, rtol=1e-4, atol=2e-5)
    assert expected.std() > 0.1, "the bound above must mean something"
    if ratio == 4:
        assert torch.equal(theirs.model.norm.weight * ratio, ours.norm.weight), "a power of two rounds nothing"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("by", [3, 4, 0.75, 48 / 7])
def test_gains_are_divided_as_torch_divides(dtype: torch.dtype, by: float) -> None:
    """bf16 comes with each of its numbers, so with each tie between two and with those next to 0."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    numbers = bits.to(torch.int16).view(torch.bfloat16).to(dtype)
    numbers = numbers[numbers.abs() < torch.finfo(dtype).max / 2]
    name = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    found = divided(numbers.view(torch.uint8).numpy().tobytes(), name, by)
    assert torch.equal(torch.frombuffer(bytearray(found), dtype=dtype), numbers / by)


@torch.inference_mode()
def test_transformers_writes_our_text(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ours = model_of("grouped")
    theirs = AutoModelForCausalLM.from_pretrained(exported(tmp_path, ours, trained()))
    prompt = [5, 6, 7]
    text = generate(ours, prompt, max_tokens=16, context=CONTEXT, temperature=0, top_k=1, seed=0)
    tokens = theirs.generate(torch.tensor([[0, *prompt]]), max_new_tokens=16, do_sample=False)
    assert tokens[0, 4 : 4 + len(text)].tolist() == text


def test_weights_are_the_same_bytes_in_the_same_precision(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ours = model_of("tied").to(torch.bfloat16)
    folder = exported(tmp_path, ours, trained())
    ours_by_name = dict(ours.named_parameters())
    theirs_by_name = load_file(folder / "model.safetensors")
    names = llama_names(ours.config)
    assert names.keys() == ours_by_name.keys()
    assert all(torch.equal(theirs_by_name[names[name]], tensor) for name, tensor in ours_by_name.items())
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


@pytest.mark.parametrize("made", TOKENIZERS)
def test_auto_tokenizer_gives_our_ids_behind_end_of_text(made: str, tmp_path: Path) -> None:
    """Also for text that spells a special token, which training encodes as ordinary text."""
    from transformers import AutoTokenizer

    tokenizer_json = TOKENIZERS[made]()
    facts = describe(tokenizer_json, "<|endoftext|>", "here")
    model = model_of("plain", facts.vocab_size, facts.end_of_text_id)
    theirs = AutoTokenizer.from_pretrained(exported(tmp_path, model, tokenizer_json))
    ours = Encoder(tokenizer_json, facts.backend)
    for text in [*TEXTS, "a<|other|>b wheel"]:
        tokens = ours.encode([text.encode()])[0].tolist()
        assert facts.end_of_text_id not in tokens
        assert theirs(text)["input_ids"] == [facts.end_of_text_id, *tokens], text
        assert theirs(text, add_special_tokens=False)["input_ids"] == tokens
        assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text
    assert (theirs.bos_token_id, theirs.eos_token_id) == (facts.end_of_text_id, facts.end_of_text_id)
    assert theirs.model_max_length == CONTEXT
    opened = Tokenizer.from_file(str(tmp_path / "export/tokenizer.json"))  # as other readers than transformers do
    assert opened.encode("mill").ids == [facts.end_of_text_id, *ours.encode([b"mill"])[0].tolist()]


def test_what_is_no_llama_is_refused(tmp_path: Path) -> None:
    model = model_of("plain")
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    weights["blocks.0.attention.query_norm.weight"] = weights.pop("blocks.1.mlp.up.weight").clone()
    save_file(weights, tmp_path / "odd.safetensors")
    with pytest.raises(Mistake, match=r"blocks\.0\.attention\.query_norm\.weight, blocks\.1\.mlp\.up\.weight"):
        write_weights(tmp_path / "odd.safetensors", tmp_path / "out", model.config)


def test_an_option_that_no_layout_has_is_refused_in_one_line() -> None:
    with pytest.raises(Mistake, match=r"^model\.logit_soft_cap: .* cannot be exported$"):
        llama_names(ModelConfig(layers=1, width=16, heads=2, logit_soft_cap=30.0))


def test_every_field_of_the_model_was_thought_of() -> None:
    """A new field of ModelConfig is refused when it is set, until this mapping says what it is in a Llama."""
    import dataclasses

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Newer(ModelConfig):
        newest: float | None = None

    shape: dict[str, Any] = {"layers": 1, "width": 8, "heads": 2}
    assert llama_names(Newer(**shape)) == llama_names(ModelConfig(**shape))
    with pytest.raises(Mistake, match=r"model\.newest: 30\.0"):
        llama_names(Newer(**shape, newest=30.0))
