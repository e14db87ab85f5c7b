"""Classification by the nearest training features, without training: the temperature-weighted vote of DINO."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

NEIGHBOURS = (10, 20, 100, 200)
_BLOCK = 1024
_LABELS = 2**24  # of neighbours, held at once


@dataclass(frozen=True)
class NearestNeighbours:
    """A bank of training features.

    Each of the k nearest by cosine similarity votes for its class with weight exp(similarity / temperature) (Wu et al. 2018,
    arXiv 1805.01978; as in DINO and DINOv2, arXiv 2304.07193, with temperature 0.07). Where an image may show several classes
    the probability of each is the weighted share of the k that show it.

    Args:
        bank: float32 [n, d], of unit length.
        labels: int64 [n], or bool [n, C].
        num_classes: C.
        temperature: of the votes.
    """

    bank: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    temperature: float = 0.07

    @classmethod
    def fit(cls, features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> NearestNeighbours:
        """Return the bank of float [n, d] training features."""
        return cls(functional.normalize(features.float(), dim=1), labels, num_classes)

    def probabilities(self, features: torch.Tensor, neighbours: Sequence[int]) -> dict[int, torch.Tensor]:
        """Return for each number of neighbours the normalised votes, float32 [m, C]; of one label an image they sum to 1.

        Args:
            features: float [m, d].
            neighbours: numbers of neighbours, each at most n.
        """
        parts: dict[int, list[torch.Tensor]] = {k: [] for k in neighbours}
        for block in functional.normalize(features.float(), dim=1).split(_BLOCK):
            nearest = (block @ self.bank.T).topk(max(neighbours), dim=1)
            for k in neighbours:
                parts[k].append(self._votes(nearest.values[:, :k], nearest.indices[:, :k]))
        return {k: torch.cat(blocks) for k, blocks in parts.items()}

    def leave_one_out(self, neighbours: int) -> torch.Tensor:
        """Return the votes for the bank's own images, float32 [n, C], none of them voting for itself; n is at least 2."""
        parts = []
        for rows in torch.arange(len(self.bank)).split(_BLOCK):
            similarity = self.bank[rows] @ self.bank.T
            similarity[torch.arange(len(rows)), rows] = -torch.inf
            nearest = similarity.topk(min(neighbours, len(self.bank) - 1), dim=1)
            parts.append(self._votes(nearest.values, nearest.indices))
        return torch.cat(parts)

    def _votes(self, similarity: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
        votes = ((similarity - similarity[:, :1]) / self.temperature).exp()  # relative to the nearest: no overflow
        if self.labels.ndim == 2:
            shares = (votes / votes.sum(1, keepdim=True))[:, None]
            most = max(1, _LABELS // (votes.shape[1] * self.num_classes))  # images at a time
            shown = (self.labels[rows].float() for rows in nearest.split(most))
            return torch.cat([torch.bmm(part, labels)[:, 0] for part, labels in zip(shares.split(most), shown, strict=True)])
        sums = torch.zeros(len(votes), self.num_classes).scatter_add_(1, self.labels[nearest], votes)
        return sums / sums.sum(1, keepdim=True)


def possible_neighbours(count: int) -> list[int]:
    """Return the numbers of neighbours to try with a bank of this size."""
    return [k for k in NEIGHBOURS if k <= count] or [count]
