"""Parameters and FLOPs of a model, as arithmetic on its config. No torch: `headrace plan` is instant."""

from dataclasses import dataclass

from pipeline.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Where a model's parameters are. `total` is exactly what the built module has."""

    embedding: int
    """The token embedding; also the output layer if it is tied."""
    output: int
    """An output layer of its own; 0 if it is tied."""
    matrices: int
    """The matrices inside the blocks."""
    vectors: int
    """The norms' gains, those of QK-norm among them."""
    largest: int
    """Of the largest single tensor."""

    @property
    def total(self) -> int:
        return self.embedding + self.output + self.matrices + self.vectors

    @property
    def non_embedding(self) -> int:
        """All but the token embedding and the output layer: the N of the scaling laws (Kaplan et al., 2020)."""
        return self.matrices + self.vectors


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Training FLOPs a token, forward and backward, in the two conventions that figures of MFU are quoted in.

    Both are 6N + attention, where N counts each weight that a token is multiplied with: two FLOPs forward and twice
    that backward. The blocks' matrices and the output layer are in N (tied or not); looking up an embedding costs
    nothing. They differ in attention, for L layers, width H and T positions: `full` counts the whole T × T square,
    12LHT (PaLM, Chowdhery et al., 2022, appendix B, where most published MFUs come from); `causal` the half that is
    below the diagonal, which is what has to be computed: 6LHT. What is computed twice (`model.recompute`) counts once.
    """

    causal: int
    full: int


def key_value_width(model: ModelConfig) -> int:
    """Width of all key heads of a layer together, and of all value heads."""
    return model.width // model.heads * (model.kv_heads or model.heads)


def count_parameters(model: ModelConfig, vocab_size: int) -> Parameters:
    width, hidden = model.width, model.mlp_hidden
    qk_gains = 2 * model.layers * (width // model.heads) if model.qk_norm else 0
    attention = 2 * width * width + 2 * width * key_value_width(model)
    return Parameters(
        embedding=vocab_size * width,
        output=0 if model.tie_embeddings else vocab_size * width,
        matrices=model.layers * (attention + 3 * width * hidden),
        vectors=(2 * model.layers + 1) * width + qk_gains,
        largest=max(vocab_size * width, width * hidden),
    )


def flops_per_token(model: ModelConfig, vocab_size: int, sequence_length: int) -> Flops:
    parameters = count_parameters(model, vocab_size)
    multiplied = 6 * (parameters.matrices + vocab_size * model.width)
    square = model.layers * model.width * sequence_length
    return Flops(causal=multiplied + 6 * square, full=multiplied + 12 * square)


def recomputed_share(model: ModelConfig) -> float:
    """FLOPs of the blocks that are computed again in backward, as a share of their forward pass, by the weights."""
    if model.recompute == "block":
        return -(-model.layers // model.recompute_every) / model.layers
    if model.recompute == "attention":
        matrices = count_parameters(model, 0).matrices
        return 1 - 3 * model.layers * model.width * model.mlp_hidden / matrices
    return 0.0
