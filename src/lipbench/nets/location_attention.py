"""Location-sensitive attention (Chorowski et al. 2015) as Tacotron 2 has it, by which DualLip aligns frames with text.

Sizes and layers after NVIDIA/tacotron2 `model.py`: e_j = v^T tanh(W q + U m_j + F conv([a_prev; a_sum])_j) with a
convolution of 32 filters and kernel 31 over the last weights and the sum of all before; no layer has a bias.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Weights(NamedTuple):
    """Where the attention was."""

    last: Tensor
    """(B, L) weights of the last step."""
    total: Tensor
    """(B, L) their sum over all steps so far."""


class LocationAttention(nn.Module):
    """One step of attention over a text.

    Args:
        query: Channels of the query.
        memory: Channels M of the encoded text.
        attention: Channels A in which both are compared.
        filters: Of the convolution over past weights.
        kernel: Its kernel, odd.
    """

    def __init__(self, query: int, memory: int, attention: int = 128, filters: int = 32, kernel: int = 31) -> None:
        super().__init__()
        self.query = nn.Linear(query, attention, bias=False)
        self.memory = nn.Linear(memory, attention, bias=False)
        self.location_conv = nn.Conv1d(2, filters, kernel, padding=kernel // 2, bias=False)
        self.location = nn.Linear(filters, attention, bias=False)
        self.energy = nn.Linear(attention, 1, bias=False)
        for layer in (self.query, self.memory, self.location):
            nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("tanh"))
        nn.init.xavier_uniform_(self.energy.weight)
        nn.init.xavier_uniform_(self.location_conv.weight)

    @staticmethod
    def start(memory: Tensor) -> Weights:
        """Weights before the first step: zeros, (B, L)."""
        zeros = memory.new_zeros(memory.shape[:2])
        return Weights(zeros, zeros)

    def forward(
        self, query: Tensor, memory: Tensor, keys: Tensor, valid: Tensor, before: Weights
    ) -> tuple[Tensor, Weights]:
        """Attend once.

        Args:
            query: (B, Q).
            memory: (B, L, M).
            keys: (B, L, A), `self.memory(memory)`: the same in every step.
            valid: (B, L) bool; no weight falls on other tokens.
            before: Of the step before.

        Returns:
            (B, M) the mean of the memory under the weights, and the weights.
        """
        past = torch.stack(before, dim=1)  # (B, 2, L)
        place = self.location(self.location_conv(past).transpose(1, 2))  # (B, L, A)
        energy = self.energy(torch.tanh(self.query(query)[:, None] + keys + place))[..., 0]  # (B, L)
        weights = energy.float().masked_fill(~valid, -torch.inf).softmax(1).to(memory.dtype)  # (B, L)
        context = torch.bmm(weights[:, None], memory)[:, 0]  # (B, M)
        return context, Weights(weights, before.total + weights)
