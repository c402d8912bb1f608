"""Generated text: a look at what a model has learnt."""

import torch

from pipeline.model.decoder import Decoder


@torch.inference_mode()
def generate(
    model: Decoder, prompt: list[int], *, max_tokens: int, context: int, temperature: float, top_k: int, seed: int
) -> list[int]:
    """Tokens that follow the prompt, up to `max_tokens` or the end of the text; the same for the same seed.

    `context` is the longest window that the model was trained on, in tokens; temperature 0 takes the likeliest token.
    The window is run anew for each token.
    """
    device = model.output.weight.device
    generator = torch.Generator().manual_seed(seed)
    tokens = [model.end_of_text_id, *prompt]  # end-of-text opens a document
    for _ in range(max_tokens):
        window_1T = torch.tensor([tokens[-context:]], device=device)
        logits_V = model(window_1T)[0, -1].float().cpu()
        if temperature == 0:
            token = int(logits_V.argmax())
        else:
            top, ids = (logits_V / temperature).topk(min(top_k, logits_V.numel()))
            token = int(ids[torch.multinomial(top.softmax(-1), 1, generator=generator)])
        if token == model.end_of_text_id:
            break
        tokens.append(token)
    return tokens[1 + len(prompt) :]
