"""Text encoder of Tacotron 2: an embedding, convolutions with BatchNorm and ReLU, a bidirectional LSTM.

Shen et al., "Natural TTS Synthesis by Conditioning WaveNet on Mel Spectrogram Predictions" (ICASSP 2018), section 2.2:
an embedding of 512 channels, three convolutions of kernel 5 with as many, and an LSTM with 256 units a direction; the
dropout of 0.5 after each convolution is section 2.2's, too. DualLip (Chen et al., ACM MM 2020) names no layers of its
text encoder E_T; it goes with this one, since its location-sensitive attention is that of Tacotron 2, too.

Own choices: an embedding may be narrower than the rest; padded steps are 0 before every convolution, BatchNorm sees
valid steps only and the LSTM turns at the last one. A text therefore gives the same result alone and inside a batch of
longer ones.
"""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lipbench.nets.fastspeech import length_mask


class ConvTextEncoder(nn.Module):
    """Tokens -> one vector a token, which knows its neighbors on both sides.

    Args:
        tokens: Size of the vocabulary; id 0 is padding.
        embedding: Channels of the embedding.
        hidden: Channels H of the convolutions and of the result, even: half of them from each direction of the LSTM.
        layers: Convolutions.
        kernel: Their kernel, odd.
        dropout: After each convolution.

    Raises:
        ValueError: `hidden` is odd or `kernel` is even.
    """

    def __init__(
        self, tokens: int, embedding: int, hidden: int, layers: int = 3, kernel: int = 5, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if hidden % 2 or kernel % 2 == 0:
            raise ValueError(f"expected an even hidden and an odd kernel, found hidden {hidden} and kernel {kernel}")
        self.embedding = nn.Embedding(tokens, embedding, padding_idx=0)
        self.convs = nn.ModuleList(
            nn.Conv1d(hidden if layer else embedding, hidden, kernel, padding=kernel // 2) for layer in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(hidden if layers else embedding, hidden // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode texts; each has at least one token.

        Args:
            tokens: (B, N) int64, one a character, or one a frame of expanded text.
            lengths: (B,) int64, how many are valid, 1 to N.

        Returns:
            (B, N, H), zero after each length.
        """
        valid = length_mask(lengths, tokens.shape[1])  # (B, N)
        x = self.embedding(tokens) * valid[..., None]  # (B, N, E)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            steps = conv(x.transpose(1, 2)).transpose(1, 2)[valid]  # (M, H), the valid ones
            steps = self.dropout(F.relu(norm(steps)))
            x = steps.new_zeros(*valid.shape, steps.shape[1]).index_put(valid.nonzero(as_tuple=True), steps)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        encoded: Tensor
        encoded, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return encoded
