"""The decoder-only Transformer, its loss and its first weights.

    tokens_BT ──embed──> x_BTD ──blocks──> x_BTD ──norm, output──> logits_BTV ──next_token_loss──> loss

What is unusual: attention never crosses a document boundary, and the boundaries are read off the tokens themselves. A
document ends with the end-of-text token, which is predicted by the document's last token and at the same time *opens*
the next document: it is the first position that the next document's tokens attend to. So every target is trained with
the right context and none with a neighbour's, and end-of-text doubles as the start token for sampling and for scoring a
document from its first byte.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.model.layers import Block, KeyValues, rotary

IGNORE = -100


class Decoder(nn.Module):
    """Called on tokens (B, T) int64 it gives logits (B, T, V)."""

    def __init__(self, config: ModelConfig, vocab_size: int, end_of_text_id: int) -> None:
        super().__init__()
        self.config = config
        self.end_of_text_id = end_of_text_id
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.output = nn.Linear(config.width, vocab_size, bias=False)
        if config.tie_embeddings:
            self.output.weight = self.embedding.weight

    def forward(self, tokens_BT: Tensor) -> Tensor:
        config = self.config
        mask_B1TT = document_mask(tokens_BT, self.end_of_text_id)
        cos_TC, sin_TC = rotary(tokens_BT.shape[1], config.width // config.heads, config.rope_theta, tokens_BT.device)
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, cos_TC, sin_TC, mask_B1TT)
        logits_BTV: Tensor = self.output(self.norm(x_BTD))
        return logits_BTV

    def next_logits(self, tokens_BT: Tensor, cache: "Cache") -> Tensor:
        """Logits (B, V) of what follows tokens that continue a cached document; they are added to the cache.

        All that is cached belongs to one document, so there are no boundaries to look for: causal is enough.
        """
        config, T, first = self.config, tokens_BT.shape[1], cache[0].length
        cos_TC, sin_TC = rotary(T, config.width // config.heads, config.rope_theta, tokens_BT.device, first=first)
        mask_11TS = torch.ones(1, 1, T, first + T, dtype=torch.bool, device=tokens_BT.device).tril(first)
        x_BTD = self.embedding(tokens_BT)
        for block, past in zip(self.blocks, cache, strict=True):
            x_BTD = block(x_BTD, cos_TC, sin_TC, mask_11TS, past)
        logits_BV: Tensor = self.output(self.norm(x_BTD[:, -1]))
        return logits_BV

    def empty_cache(self, length: int, batch_size: int = 1) -> "Cache":
        """Room for the keys and values of `length` positions: 2 × layers × B × K × length × C numbers."""
        config, weight = self.config, self.embedding.weight
        shape = (batch_size, config.kv_heads or config.heads, length, config.width // config.heads)
        return [KeyValues(weight.new_empty(shape), weight.new_empty(shape)) for _ in self.blocks]


Cache = list[KeyValues]
"""One document's keys and values, one entry a block."""


def document_mask(tokens_BT: Tensor, end_of_text_id: int) -> Tensor:
    """Who may attend to whom, (B, 1, T, T) bool: earlier positions of the same document. End-of-text opens a
    document."""
    document_BT = (tokens_BT == end_of_text_id).cumsum(dim=1)
    same_BTT = document_BT[:, :, None] == document_BT[:, None, :]
    return (same_BTT & torch.ones_like(same_BTT[0]).tril()).unsqueeze(1)


def next_token_targets(tokens_BT: Tensor, end_of_text_id: int) -> Tensor:
    """What each position predicts, (B, T): the next token, or IGNORE at the row's end and inside padding.

    Padding is end-of-text after end-of-text, which no document makes: documents are never empty.
    """
    targets_BT = F.pad(tokens_BT[:, 1:], (0, 1), value=IGNORE)
    padding_BT = (tokens_BT == end_of_text_id) & (targets_BT == end_of_text_id)
    return targets_BT.masked_fill(padding_BT, IGNORE)


def next_token_loss(logits_BTV: Tensor, tokens_BT: Tensor, end_of_text_id: int) -> Tensor:
    """Mean cross entropy in nats, fp32, over the B × (T-1) positions that have a next token.

    The divisor is fixed rather than the count of scored positions, so that the mean over micro-batches and ranks is the
    same function of the global batch whatever the world size; it differs only in a source's one padded sequence.
    """
    B, T = tokens_BT.shape
    targets_BT = next_token_targets(tokens_BT, end_of_text_id)
    total = F.cross_entropy(
        logits_BTV.float().flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total / (B * (T - 1))


def initialise(model: Decoder, seed: int) -> None:
    """First weights, the same on every rank: a function of the config and the seed alone.

    Matrices and embeddings are normal with variance 2 / (5 × width) (Nguyen and Salazar, 2019); those that write into
    the residual stream are divided by sqrt(2 × layers), so that its variance does not grow with depth (GPT-2).
    """
    generator = torch.Generator().manual_seed(seed)
    std = math.sqrt(2 / (5 * model.config.width))
    residual_std = std / math.sqrt(2 * model.config.layers)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            else:
                writes_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                parameter.normal_(0.0, residual_std if writes_residual else std, generator=generator)


def build(config: ModelConfig, vocab_size: int, end_of_text_id: int, seed: int) -> Decoder:
    """A freshly initialised model."""
    model = Decoder(config, vocab_size, end_of_text_id)
    initialise(model, seed)
    return model
