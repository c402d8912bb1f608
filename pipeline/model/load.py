"""A checkpoint's weights as a model, without DeepSpeed and without unpickling anything."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from pipeline.config import ModelConfig
from pipeline.model.decoder import Decoder


def load_model(weights: Path, config: ModelConfig, vocab_size: int, end_of_text_id: int) -> Decoder:
    """The model on the best device of this process, ready for inference.

    On a CPU it computes in fp32, which is twice as fast there as bf16 without bf16 units; on a GPU in the precision as
    saved.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        model = Decoder(config, vocab_size, end_of_text_id)
    state = load_file(weights, device=str(device))
    if device.type == "cpu":
        state = {name: tensor.float() for name, tensor in state.items()}
    if config.tie_embeddings:
        state["output.weight"] = state["embedding.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)
