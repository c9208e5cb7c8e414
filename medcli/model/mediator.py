"""Attention through a few pooled mediator tokens between queries and keys.

Source: Efficient Diffusion Transformer with Step-wise Dynamic Attention Mediators (arXiv 2408.05710);
reference-facts 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medcli.model.absorption import layer_saving
from medcli.model.attention import PLAIN, Attention, AttentionParts, Biases, WeightCache
from medcli.model.kernel_choice import kernels_win
from medcli.model.layout import BIAS_TABLES, bias_shapes
from medcli.model.linear import linear

# Dimension key: B batch, H heads, N latent tokens, M mediator tokens, K head width, D model width = H * K,
# S tokens along one side of the grid.


class MediatorBias(nn.Module):
    """The six position-bias tables of one mediator count in one layer."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))


def compose_biases(
    an_bias: Tensor, na_bias: Tensor, ah_bias: Tensor, aw_bias: Tensor, ha_bias: Tensor, wa_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum the six tables of a count on the token grid; shapes as in `medcli.model.layout.bias_shapes`.

    Returns:
        Bias of the mediator-to-token scores and of the query-to-mediator scores, both (H, M, N).

    Source: reference-facts 3.2, steps 4 and 6.
    """
    side = ah_bias.shape[3]

    def resized(table_HM77: Tensor) -> Tensor:
        return F.interpolate(table_HM77, size=(side, side), mode="bilinear", align_corners=False)

    to_tokens_HMSS = resized(an_bias) + (ah_bias + aw_bias)[0]
    from_queries_HMSS = resized(na_bias) + (ha_bias + wa_bias)[0].permute(0, 3, 1, 2)
    return to_tokens_HMSS.flatten(2), from_queries_HMSS.flatten(2)


def _goes_by_image(x_BND: Tensor, bias_HMN: Tensor) -> bool:
    """Return whether heads are mixed one image at a time: in the processor's cache, without copies of strided heads.

    It is a gain in float32 on a CPU, and a loss in bfloat16 (docs/performance.md).
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return False
    is_plain = x_BND.is_cpu and type(x_BND) is Tensor and len(x_BND) > 1
    return is_plain and x_BND.dtype == bias_HMN.dtype == torch.float32


class MediatorAttention(Attention):
    """Attention through any mediator count of its ladder, or full attention for count 0.

    All counts share the projections and the depth-wise convolution; each has its own bias tables. A ladder of
    one count keeps upstream's parameter names, so official files load as they are.

    Args:
        hidden_size: Model width D.
        num_heads: Heads H.
        tokens_side: Tokens along one side of the square grid.
        ladder: Mediator counts, rising perfect squares.
        parts: Parts that the family has; a relative position bias is used by full attention only.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        tokens_side: int,
        ladder: tuple[int, ...],
        parts: AttentionParts = PLAIN,
    ) -> None:
        super().__init__(hidden_size, num_heads, parts=parts)
        self.dwc = nn.Conv2d(hidden_size, hidden_size, 3, padding=1, groups=hidden_size)
        self.tokens_side = tokens_side
        self._composed = {count: WeightCache[tuple[Tensor, Tensor]]() for count in ladder}
        self.ladder: nn.ModuleDict | None = None
        if len(ladder) == 1:
            for name, shape in bias_shapes(num_heads, tokens_side, ladder[0]).items():
                self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        else:
            self.ladder = nn.ModuleDict(
                {str(count): MediatorBias(bias_shapes(num_heads, tokens_side, count)) for count in ladder}
            )

    def tables(self, num_mediators: int) -> nn.Module:
        """Return the module that holds the bias tables of a count."""
        return self if self.ladder is None else self.ladder[str(num_mediators)]

    def biases(self, num_mediators: int) -> tuple[Tensor, Tensor]:
        """Return the composed biases of a count, each (H, M, N), cached between calls without gradients."""
        tables = self.tables(num_mediators)
        return self._composed[num_mediators].of(compose_biases, *(getattr(tables, name) for name in BIAS_TABLES))

    def composed(self, num_mediators: int) -> Biases:
        """Return the biases of a count, or of full attention for 0."""
        return self.biases(num_mediators) if num_mediators else super().composed(0)

    def absorbs(self, num_mediators: int) -> bool:
        """Return whether `absorbed_scores` costs less than projecting every token; training uses the papers' order.

        With a norm or a rotation of queries and keys it would be inexact.
        """
        if self.q_norm is not None or self.rotary is not None:
            return False
        saving = layer_saving(
            num_mediators,
            num_heads=self.num_heads,
            width=self.proj.in_features,
            num_tokens=self.tokens_side**2,
        )
        return saving > 0

    def grid(self, x_BND: Tensor) -> Tensor:
        """View (B, N, D) tokens as a (B, D, S, S) image."""
        if torch.is_grad_enabled():
            return x_BND.transpose(1, 2).unflatten(-1, (self.tokens_side, self.tokens_side))
        # The same view with strides that torch recognises as channels last for a batch of one too: its convolution is
        # three times as fast. Gradients would round differently, and training runs must stay repeatable.
        return x_BND.unflatten(1, (self.tokens_side, self.tokens_side)).permute(0, 3, 1, 2)

    def pool(self, x_BND: Tensor, num_mediators: int) -> Tensor:
        """Pool the token grid into mediators, (B, M, D), row by row. Source: reference-facts 3.2, step 2."""
        pooled_BDmm = F.adaptive_avg_pool2d(self.grid(x_BND), math.isqrt(num_mediators))
        return pooled_BDmm.flatten(2).transpose(1, 2)

    def scores(
        self, query_BND: Tensor, key_BND: Tensor, num_mediators: int, biases: Biases = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the scores of mediators against keys and of queries against mediators, both (B, H, M, N).

        Tokens are innermost in both, so that the softmax over few mediators is vectorised over tokens.
        Source: reference-facts 3.2, steps 5 and 7.
        """
        to_tokens_HMN, from_queries_HMN = biases or self.biases(num_mediators)
        mediator_BHMK = self.mediators(query_BND, num_mediators)
        return (
            mediator_BHMK @ self.placed_heads(key_BND).mT + to_tokens_HMN,
            mediator_BHMK @ self.placed_heads(query_BND).mT + from_queries_HMN,
        )

    def mediators(self, query_BND: Tensor, num_mediators: int) -> Tensor:
        """Return the scaled mediators of each head, (B, H, M, K): to scale these few scales both score matrices.

        They are averages of normalised queries, so that their scores are averages of full attention's; rotated each by
        the centre of its pool, so that scores depend on offsets alone.
        """
        mediator_BHMK = self.split_heads(self.pool(query_BND, num_mediators)) * self.head_width**-0.5
        return mediator_BHMK if self.rotary is None else self.rotary.mediators(mediator_BHMK)

    def scores_by_image(
        self, query_BND: Tensor, key_BND: Tensor, num_mediators: int, biases: Biases
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the `scores` of each image, (H, M, N) both."""
        to_tokens_HMN, from_queries_HMN = biases
        mediator_BHMK = self.mediators(query_BND, num_mediators)
        heads = (self.placed_heads(key_BND), self.placed_heads(query_BND))
        for mediator, key, query in zip(mediator_BHMK, *heads, strict=True):
            yield (
                torch.baddbmm(to_tokens_HMN, mediator, key.mT),
                torch.baddbmm(from_queries_HMN, mediator, query.mT),
            )

    def absorbed_scores(self, x_BND: Tensor, num_mediators: int, biases: Biases = ()) -> tuple[Tensor, Tensor]:
        """Return `scores` directly from the tokens, the first up to a constant along tokens: see `absorption`.

        No query or key is computed. The constant is the keys' bias.
        """
        to_tokens_BRN, from_queries_BRN, constant_BHM = self.absorbed_parts(x_BND, num_mediators, biases)
        to_tokens_BHMN, from_queries_BHMN = (
            part.unflatten(1, (self.num_heads, num_mediators)) for part in (to_tokens_BRN, from_queries_BRN)
        )
        return to_tokens_BHMN, from_queries_BHMN + constant_BHM[..., None]

    def absorbed_parts(self, x_BND: Tensor, num_mediators: int, biases: Biases = ()) -> tuple[Tensor, Tensor, Tensor]:
        """Return both scores with their biases, (B, H M, N), and what the second lacks, (B, H, M)."""
        batch, num_tokens, width = x_BND.shape
        rows = (self.num_heads, self.head_width)
        query_bias_D = self.qkv.bias[:width]
        query_HKD, key_HKD = (weight.unflatten(0, rows) for weight in self.qkv.weight[: 2 * width].chunk(2))
        pooled_BMD = self.pool(x_BND, num_mediators)
        mediator_BMHK = F.linear(pooled_BMD, self.qkv.weight[:width], query_bias_D).unflatten(-1, rows)
        mediator_BMHK = mediator_BMHK * self.head_width**-0.5
        mediator_HRK = mediator_BMHK.permute(2, 0, 1, 3).flatten(1, 2)  # R: mediators of all images

        def score(weight_HKD: Tensor, bias_HMN: Tensor) -> Tensor:
            absorbed_BHMD = (mediator_HRK @ weight_HKD).unflatten(1, (batch, num_mediators)).transpose(0, 1)
            return torch.baddbmm(bias_HMN.flatten(0, 1), absorbed_BHMD.flatten(1, 2), x_BND.mT)

        to_tokens_HMN, from_queries_HMN = biases or self.biases(num_mediators)
        query_constant_BHM = (mediator_BMHK * query_bias_D.unflatten(0, rows)).sum(-1).transpose(1, 2)
        return score(key_HKD, to_tokens_HMN), score(query_HKD, from_queries_HMN), query_constant_BHM

    def mediate(self, scores_BHMN: Tensor, shares_BHMN: Tensor, value_BND: Tensor) -> Tensor:
        """Aggregate values into mediators by the first scores, and into queries by the second: (B, N, D)."""
        summary_BHMK = scores_BHMN.softmax(dim=-1) @ self.split_heads(value_BND)
        return (shares_BHMN.softmax(dim=-2).mT @ summary_BHMK).transpose(1, 2).flatten(2)

    def forward(
        self,
        x_BND: Tensor,
        num_mediators: int,
        kept_BK: Tensor | None = None,
        absorb: bool = True,
        biases: Biases = (),
    ) -> Tensor:
        """Mix (B, N, D) tokens through `num_mediators` mediators, or with full attention for 0.

        Full attention uses the same q, k, v and projection without the convolution: it is the dense parent. Mediators
        cost 4 N M D multiply-adds instead of 2 N^2 D, so they pay only for M < N / 2. Without gradients they are
        absorbed where that costs less still, unless `absorb` is false. `biases` is what `composed` returns; empty: it
        is composed.
        """
        if num_mediators == 0:
            return super().forward(x_BND, 0, kept_BK, biases=biases)
        is_absorbed = absorb and not torch.is_grad_enabled() and self.absorbs(num_mediators)
        mix = self.mix_in_kernels if kernels_win(self, x_BND, num_mediators, is_absorbed) else self.mix
        out_BND: Tensor = self.proj(mix(x_BND, num_mediators, is_absorbed, biases))
        return out_BND

    def mix(self, x_BND: Tensor, num_mediators: int, is_absorbed: bool, biases: Biases = ()) -> Tensor:
        """Mix tokens up to the projection."""
        biases = biases or self.biases(num_mediators)
        if _goes_by_image(x_BND, biases[0]):
            return self.mix_by_image(x_BND, num_mediators, is_absorbed, biases)
        if is_absorbed:
            value_BND = self.values(x_BND)
            scores = self.absorbed_scores(x_BND, num_mediators, biases)
        else:
            query_BND, key_BND, value_BND = self.project(x_BND)
            scores = self.scores(query_BND, key_BND, num_mediators, biases)
        return self.mediate(*scores, value_BND) + self.local(value_BND)

    def mix_by_image(self, x_BND: Tensor, num_mediators: int, is_absorbed: bool, biases: Biases) -> Tensor:
        """Do what `mix` does, with the same bits, an image at a time where scores are not absorbed."""
        scores: Iterable[tuple[Tensor, Tensor]]
        if is_absorbed:
            value_BND = self.values(x_BND)
            scores = zip(*self.absorbed_scores(x_BND, num_mediators, biases), strict=True)
        else:
            query_BND, key_BND, value_BND = self.project(x_BND, apart=True)
            scores = self.scores_by_image(query_BND, key_BND, num_mediators, biases)
        mixed_BND = self.local(value_BND)
        heads = (self.split_heads(value_BND), self.split_heads(mixed_BND))
        for (scores_HMN, shares_HMN), value_HNK, mixed_HNK in zip(scores, *heads, strict=True):
            summary_HMK = torch.bmm(scores_HMN.softmax(dim=-1), value_HNK)
            mixed_HNK.baddbmm_(shares_HMN.softmax(dim=-2).mT, summary_HMK)
        return mixed_BND

    def local(self, value_BND: Tensor) -> Tensor:
        """Convolve the values of neighbouring tokens, (B, N, D)."""
        return self.dwc(self.grid(value_BND)).flatten(2).transpose(1, 2)

    def mix_in_kernels(self, x_BND: Tensor, num_mediators: int, is_absorbed: bool, biases: Biases = ()) -> Tensor:
        """Do what `mix` does by `medcli.kernels.mediator`; not with rotary positions."""
        # Triton is not installed everywhere.
        from medcli.kernels.mediator import Core, mediate_projected, mediate_scores

        to_tokens_HMN, from_queries_HMN = (bias.contiguous() for bias in biases or self.biases(num_mediators))
        bias_D = self.dwc.bias
        assert bias_D is not None
        core = Core(to_tokens_HMN, from_queries_HMN, self.dwc.weight, bias_D)
        if is_absorbed:
            *scores, constant_BHM = self.absorbed_parts(x_BND, num_mediators, biases)
            return mediate_scores((scores[0], scores[1]), constant_BHM, self.values(x_BND), core)
        query_BND, key_BND, value_BND = self.project(x_BND)
        return mediate_projected(self.pool(query_BND, num_mediators), query_BND, key_BND, value_BND, core)

    def values(self, x_BND: Tensor) -> Tensor:
        """Compute the values alone."""
        width = self.proj.in_features
        return linear(x_BND, self.qkv.weight[2 * width :], self.qkv.bias[2 * width :])
