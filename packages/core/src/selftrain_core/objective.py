"""The normalised joint objective of Zoph et al. 2020, Appendix B: the heart of the project.

    L = (L_h + α · r · L_p) / (1 + α),    r = L̄_h / L̄_p, without gradient

L_h and L_p are the whole task losses of the human and the pseudo half of a step, L̄ their exponential moving averages
(decay 0.9997). The ratio keeps the two losses at one scale, so that α alone says how much the pseudo labels weigh.

Losses arrive as per-image sums, counts come from the targets, and only this file divides: per term and half
``Σ total / max(1, scale · (Σ count + offset))``, the sums running over every micro-batch and rank of the step. k
micro-batches, or n ranks, therefore give the gradient of one large batch.

Shape letters: T = loss terms, 2 = (human, pseudo), B = images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selftrain_core.batch import HUMAN, PSEUDO
from selftrain_core.distributed import sum_over_ranks
from selftrain_core.errors import ContractError
from selftrain_core.interfaces import LossTerm


@dataclass(frozen=True)
class Denominators:
    """What the losses of one optimiser step are divided by, the same on every rank.

    Attributes:
        divisor_T2: ``max(1, scale · (Σ count + offset))``.
        filled_2: 1 where the half holds something countable, else 0.
    """

    divisor_T2: Tensor
    filled_2: Tensor


class NormalisedObjective:
    """Weighs the human and the pseudo loss of each step. Its state is two averages and their update counts.

    Args:
        terms: The task's loss terms.
        alpha: α ≥ 0; 0 is plain supervised training.
        normalise: Whether to use the ratio; False is the plain sum ``L_h + α · L_p``, the paper's "standard loss".
        decay: Of the moving averages, in [0, 1).
        device: Where the state lives.
        dtype: In which losses are summed.
    """

    def __init__(
        self,
        terms: Sequence[LossTerm],
        alpha: float,
        *,
        normalise: bool = True,
        decay: float = 0.9997,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.terms = tuple(terms)
        self.alpha = alpha
        self.normalise = normalise
        self.decay = decay
        self._sum_2 = torch.zeros(2, dtype=dtype, device=device)
        self._updates_2 = torch.zeros(2, dtype=dtype, device=device)
        column = torch.tensor([[t.weight, t.count_scale, t.count_offset] for t in self.terms], dtype=dtype)
        self._weight_T, self._scale_T, self._offset_T = column.to(device).unbind(1)
        self._derive()

    @property
    def averages_2(self) -> Tensor:
        """The debiased averages (L̄_h, L̄_p); 0 before the first update of a half."""
        return self._averages_2

    @property
    def ratio(self) -> Tensor:
        """The ratio r for the next step: 1 until both averages exist, and where L̄_p is 0."""
        return self._ratio

    def _derive(self) -> None:
        # Once per update, not at every look: each is some twenty small kernels on a GPU.
        correction = 1 - self.decay**self._updates_2
        self._averages_2 = torch.where(self._updates_2 > 0, self._sum_2 / correction.clamp(min=1e-12), 0.0)
        human, pseudo = self._averages_2.unbind()
        known = (self._updates_2 > 0).all() & (pseudo > 0)
        self._ratio = torch.where(known, human / torch.where(known, pseudo, 1.0), 1.0)

    def denominators(self, counts: Sequence[Mapping[str, Tensor]], sources: Sequence[Tensor]) -> Denominators:
        """Return what one step's losses are divided by, from its micro-batches' counts. Sums over ranks.

        Args:
            counts: For each micro-batch what `Task.counts` returned, float [B] per term.
            sources: For each micro-batch `Batch.source_B`.

        Raises:
            ContractError: A term is missing, unknown, or of the wrong shape.
        """
        count_T2 = torch.zeros(len(self.terms), 2, dtype=self._sum_2.dtype, device=self._sum_2.device)
        images_2 = torch.zeros_like(self._sum_2)
        for count, source_B in zip(counts, sources, strict=True):
            half_B2 = self._halves(source_B)
            count_T2 += self._stack(count, source_B, "counts") @ half_B2
            images_2 += half_B2.sum(0)
        packed = sum_over_ranks(torch.cat([count_T2, images_2[None]]))
        count_T2, images_2 = packed[:-1], packed[-1]
        raw_T2 = self._scale_T[:, None] * (count_T2 + self._offset_T[:, None])
        # A half without images counts nothing, even where a term's offset is positive.
        filled_2 = ((raw_T2 > 0).any(0) & (images_2 > 0)).to(raw_T2.dtype)
        return Denominators(raw_T2.clamp(min=1), filled_2)

    def halves(self, losses: Mapping[str, Tensor], source_B: Tensor, denominators: Denominators) -> Tensor:
        """Return what one micro-batch adds to (L_h, L_p), with gradient.

        Args:
            losses: What `Task.losses` returned, floating [B] per term.
            source_B: `Batch.source_B` of the same micro-batch.
            denominators: Those of the step.

        Raises:
            ContractError: A term is missing, unknown, or of the wrong shape.
        """
        total_T2 = self._stack(losses, source_B, "losses") @ self._halves(source_B)
        half_2 = (self._weight_T[:, None] * total_T2 / denominators.divisor_T2).sum(0)
        return half_2 * denominators.filled_2

    def combine(self, half_2: Tensor) -> Tensor:
        """Return the loss of (L_h, L_p); linear, so that the losses of micro-batches add up to the step's."""
        if not self.normalise:
            return half_2[HUMAN] + self.alpha * half_2[PSEUDO]
        return (half_2[HUMAN] + self.alpha * self.ratio * half_2[PSEUDO]) / (1 + self.alpha)

    def update(self, half_2: Tensor, denominators: Denominators) -> None:
        """Add one step's (L_h, L_p), summed over micro-batches and ranks, to the averages of the halves it filled."""
        filled = denominators.filled_2
        updated_2 = self.decay * self._sum_2 + (1 - self.decay) * half_2.detach()
        self._sum_2 = torch.where(filled > 0, updated_2, self._sum_2)
        self._updates_2 = self._updates_2 + filled
        self._derive()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state for a checkpoint."""
        return {"sum_2": self._sum_2.cpu(), "updates_2": self._updates_2.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the state that `state_dict` returned."""
        self._sum_2 = state["sum_2"].to(self._sum_2)
        self._updates_2 = state["updates_2"].to(self._updates_2)
        self._derive()

    def _halves(self, source_B: Tensor) -> Tensor:
        # Multiplication by 0/1 vectors, not indexing: the shapes stay fixed whatever the batch holds.
        return torch.stack([source_B == HUMAN, source_B == PSEUDO], dim=1).to(self._sum_2.dtype)

    def _stack(self, values: Mapping[str, Tensor], source_B: Tensor, what: str) -> Tensor:
        names = [term.name for term in self.terms]
        if set(values) != set(names):
            raise ContractError(f"the task's {what} are {sorted(values)}, its terms are {sorted(names)}")
        for name, value in values.items():
            if value.shape != source_B.shape:
                raise ContractError(
                    f"the task's {what} '{name}' have shape {tuple(value.shape)}; "
                    f"one number per image was expected: {tuple(source_B.shape)}"
                )
        return torch.stack([values[name].to(self._sum_2.dtype) for name in names])
