"""Generated text: a look at what a model has learnt.

    prompt ──next_logits──> first token ──next_logits──> second token ...      each token goes through the model once

The keys and values of the tokens so far are kept, so a token costs one position instead of the whole window. When the
window has grown to the training length, its older half is let go and the newer half is read again from position 0: the
model never sees a position that it was not trained at, each token sees at least half a window, and reading again costs
each token one more position on average. Such a window begins inside a document, as most rows of a corpus do.
"""

import torch
from torch import Tensor

from pipeline.model.decoder import Decoder


@torch.inference_mode()
def generate(
    model: Decoder, prompt: list[int], *, max_tokens: int, context: int, temperature: float, top_k: int, seed: int
) -> list[int]:
    """Tokens that follow the prompt, up to `max_tokens` or the end of the text; the same for the same seed.

    `context` is the longest window that the model was trained on, in tokens, at least 2; temperature 0 takes the
    likeliest token. Of a prompt with end-of-text in it, what follows the last one counts: it opens a document.
    """
    device = model.output.weight.device
    generator = torch.Generator().manual_seed(seed)
    tokens = opened_document(prompt, model.end_of_text_id)
    given, seen, begin = len(tokens), 0, 0
    cache = model.empty_cache(context)
    for _ in range(max_tokens):
        if (moved := window_start(len(tokens), context)) != begin:
            begin = seen = moved
            cache = model.empty_cache(context)
        fresh_1T = torch.tensor([tokens[seen:]], device=device)
        seen = len(tokens)
        token = choose(model.next_logits(fresh_1T, cache)[0], temperature, top_k, generator)
        if token == model.end_of_text_id:
            break
        tokens.append(token)
    return tokens[given:]


def opened_document(prompt: list[int], end_of_text_id: int) -> list[int]:
    """The last document that a prompt opens, from its end-of-text on: no token of it sees what comes before."""
    tokens = [end_of_text_id, *prompt]
    last = max(at for at, token in enumerate(tokens) if token == end_of_text_id)
    return tokens[last:]


def window_start(length: int, context: int) -> int:
    """Where the window of a text of `length` tokens begins: 0 until it is longer than `context`, then by halves."""
    half = context - context // 2
    return max(0, -(-(length - context) // half) * half)


def choose(logits_V: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    """The next token: the likeliest at temperature 0, else drawn from the `top_k` likeliest."""
    logits_V = logits_V.float().cpu()
    if temperature == 0:
        return int(logits_V.argmax())
    top, ids = logits_V.topk(min(top_k, logits_V.numel()))
    # From the likeliest down, and in fp64: near temperature 0 logits / temperature would be infinite.
    scaled = ((top - top[0]).double() / temperature).float()
    return int(ids[torch.multinomial(scaled.softmax(-1), 1, generator=generator)])
