"""The decoder-only Transformer and its first weights.

    tokens_BT ──embed──> x_BTD ──blocks──> x_BTD ──norm, output layer──> logits_BTV, or in training the losses

What is unusual: attention never crosses a document boundary, and the boundaries are read off the tokens themselves. A
document ends with the end-of-text token, which is predicted by the document's last token and at the same time *opens*
the next document: it is the first position that the next document's tokens attend to. So every target is trained with
the right context and none with a neighbour's, and end-of-text doubles as the start token for sampling and for scoring a
document from its first byte.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.model.attention import document_numbers, mask_of, path_on
from pipeline.model.layers import Attention, Blocks, KeyValues, compile_forward, rotary
from pipeline.model.loss import Losses, OutputLayer, mean_losses, next_token_targets
from pipeline.model.ulysses import Peers


class Decoder(nn.Module):
    """Called on tokens (B, T) int64 it gives logits (B, T, V), or with `loss=True` the mean `Losses` of predicting each
    next token."""

    def __init__(self, config: ModelConfig, vocab_size: int, end_of_text_id: int) -> None:
        super().__init__()
        self.config = config
        self.end_of_text_id = end_of_text_id
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.blocks = Blocks(config)
        self.norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.output = OutputLayer(config, vocab_size)
        self.peers = Peers()
        if config.tie_embeddings:
            self.embedding.weight = self.output.weight

    def share_sequences(self, peers: Peers) -> None:
        """From here on each peer computes its slice of the positions. All are called on the same whole rows of tokens,
        and give the logits (B, T/N, V) or the mean losses of their slices."""
        self.peers = peers
        for module in self.modules():
            if isinstance(module, Attention):
                module.peers = peers

    def forward(self, tokens_BT: Tensor, *, loss: bool = False) -> Tensor | Losses:
        own_BT = self.peers.own(tokens_BT)
        x_BTD = self.embedding(own_BT)
        document_BT = document_numbers(tokens_BT, self.end_of_text_id)
        mask = mask_of(document_BT, x_BTD.dtype, path_on(tokens_BT.device, training=self.training))
        x_BTD = self.norm(self.blocks(x_BTD, *self._rotary(own_BT, self.peers.rank * own_BT.shape[1]), mask))
        if loss:
            # Cut only now: the last position of a slice predicts the first token of the next.
            targets_BT = self.peers.own(next_token_targets(tokens_BT, self.end_of_text_id))
            return mean_losses(self.output(x_BTD, targets_BT), tokens_BT, self.peers.size)
        logits_BTV: Tensor = self.output(x_BTD)
        return logits_BTV

    def next_logits(self, tokens_BT: Tensor, cache: "Cache") -> Tensor:
        """Logits (B, V) of what follows tokens that continue a cached document; they are added to the cache.

        All that is cached belongs to one document, so there are no boundaries to look for: causal is enough.
        """
        T, first = tokens_BT.shape[1], cache[0].length
        mask_11TS = torch.ones(1, 1, T, first + T, dtype=torch.bool, device=tokens_BT.device).tril(first)
        x_BTD = self.blocks(self.embedding(tokens_BT), *self._rotary(tokens_BT, first), mask_11TS, cache)
        logits_BV: Tensor = self.output(self.norm(x_BTD[:, -1]))
        return logits_BV

    def empty_cache(self, length: int, batch_size: int = 1) -> "Cache":
        """Room for the keys and values of `length` positions: 2 × layers × B × K × length × C numbers."""
        config, weight = self.config, self.embedding.weight
        shape = (batch_size, config.kv_heads or config.heads, length, config.width // config.heads)
        return [KeyValues(weight.new_empty(shape), weight.new_empty(shape)) for _ in self.blocks]

    def _rotary(self, tokens_BT: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        config = self.config
        head_size = config.width // config.heads
        return rotary(tokens_BT.shape[1], head_size, config.rope_theta, tokens_BT.device, first=first)


Cache = list[KeyValues]
"""One document's keys and values, one entry a block."""


Place = Callable[[nn.Parameter], None]
"""Called with each parameter once it has its first numbers, fp32 on the host, and before the next is drawn."""


def outline(config: ModelConfig, vocab_size: int, end_of_text_id: int) -> Decoder:
    """A model to train without its weights, on torch's meta device: names and shapes, and no memory. Compiled if the
    config says so."""
    with torch.device("meta"):
        model = Decoder(config, vocab_size, end_of_text_id)
    if config.compile == "model":
        compile_forward(model.blocks)
    elif config.compile == "block":
        for block in model.blocks:
            compile_forward(block)
    if config.compile != "none":
        model.output.compile_loss()
    return model


def initialise(model: Decoder, seed: int | None, place: Place = lambda parameter: None) -> None:
    """Gives an outline its first weights, the same on every rank: a function of the config and the seed alone.

    One generator draws all parameters in order, one at a time, so what `place` does with one decides how much is held
    at once, and never which numbers there are.

    Matrices and embeddings are normal with variance 2 / (5 × width) (Nguyen and Salazar, 2019), embedding and output
    layer by `base_width` if there is one (width.py); those that write into the residual stream are divided by
    sqrt(2 × layers), so that its variance does not grow with depth (GPT-2).

    Without a seed all are 0, which takes no time: for weights that are loaded next.
    """
    generator = torch.Generator().manual_seed(seed or 0)
    for name, parameter in model.named_parameters():  # a tied weight appears once
        drawn = torch.zeros(parameter.shape)
        if seed is not None and parameter.ndim < 2:
            drawn.fill_(1.0)
        elif seed is not None:
            drawn.normal_(0.0, first_deviation(name, model.config), generator=generator)
        fill_in(parameter, drawn)
        del drawn  # or it would live on beside what `place` makes of it
        place(parameter)


def first_deviation(name: str, config: ModelConfig) -> float:
    """The standard deviation of a matrix's first numbers."""
    hidden = name.startswith("blocks.")
    std = math.sqrt(2 / (5 * (config.width if hidden else config.base_width or config.width)))
    if name.endswith(("attention.out.weight", "mlp.down.weight")):
        std /= math.sqrt(2 * config.layers)
    return std


def fill_in(parameter: nn.Parameter, numbers: Tensor) -> None:
    """Gives a parameter of an outline its numbers. It stays the same object: whoever knows it, as a tied layer or an
    optimizer does, goes on to."""
    filled = nn.Parameter(numbers)
    vars(filled).update(vars(parameter))  # attributes change hands too
    torch.utils.swap_tensors(parameter, filled)  # type: ignore[no-untyped-call]


def build(config: ModelConfig, vocab_size: int, end_of_text_id: int, seed: int) -> Decoder:
    """A freshly initialised model, all of it on the host in fp32, compiled if the config says so."""
    model = outline(config, vocab_size, end_of_text_id)
    initialise(model, seed)
    return model
