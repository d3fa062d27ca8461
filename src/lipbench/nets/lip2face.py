"""DualLip's lip-to-face network: synthesized faces and text in, frames of the whole face out.

Chen et al., "DualLip: A System for Joint Lip Reading and Generation" (ACM MM 2020), section 3.4.1. From the paper: the
image encoder sees each frame's synthesized face (6 channels: lips superimposed on a guide face, and the target face
without its lower half), the text encoder the expanded text; both features of a frame go through an RNN, and the image
decoder draws the frame from its output, with skip connections from the image encoder.

The paper names no layers and follows Song et al. (IJCAI 2019). As in their published code: widths of image encoder and
decoder, kernels of 5, features of 512, one GRU of 1024. Own choices: the encoder and the decoder are those of ParaLip
(`lipbench.nets.pictures`), which go back to the same code and have BatchNorm besides; skips are those of the frame
itself; the text encoder is Tacotron 2's (`lipbench.nets.text_encoder`). BatchNorm sees valid frames, never padding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipbench.nets.pictures import IdentityEncoder, PictureDecoder
from lipbench.nets.text_encoder import ConvTextEncoder

CHANNELS = 6
"""Of a synthesized face: guide face with lips, target face without its lower half."""


class LipToFaceNet(nn.Module):
    """Image encoder a frame, text encoder, GRU over the frames, image decoder with the frame's own skips.

    Args:
        size: Pixels a side of the face.
        tokens: Size of the vocabulary; id 0 is padding.
        embedding: Channels of the text encoder's embedding.
        hidden: Channels H of the text and of the image features, even.
        rnn: Units R of the GRU.
        dropout: Of the text encoder.
        encoder_widths: Channels of the image encoder, one number a halving of the picture.
        decoder_widths: Channels of the image decoder: first map, one a doubling, last map.
    """

    def __init__(
        self,
        size: int,
        tokens: int,
        embedding: int,
        hidden: int,
        rnn: int,
        dropout: float,
        encoder_widths: Sequence[int],
        decoder_widths: Sequence[int],
    ) -> None:
        super().__init__()
        self.text_encoder = ConvTextEncoder(tokens, embedding, hidden, dropout=dropout)
        self.image_encoder = IdentityEncoder((size, size), encoder_widths, hidden, CHANNELS)
        self.rnn = nn.GRU(2 * hidden, rnn, batch_first=True)
        self.image_decoder = PictureDecoder((size, size), encoder_widths, decoder_widths, rnn, with_identity=False)

    def forward(self, faces: Tensor, text: Tensor, valid: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Draw frames in a row of several clips.

        Args:
            faces: (M, 6, size, size) in [0, 1], the synthesized faces of the valid frames, clip after clip.
            text: (B, T, H) features of the expanded text, from `text_encoder`, of the same frames.
            valid: (B, T) bool, M of them true; in each clip those at its beginning.
            state: (1, B, R) of the GRU after the frames before; None at the beginning of clips.

        Returns:
            (M, 3, size, size) in (-1, 1), the target range is [0, 1]; the state after these frames.
        """
        image, skips = self.image_encoder(faces)  # (M, H)
        features = torch.cat([image, text[valid]], dim=1)  # (M, 2 H)
        steps = features.new_zeros(*valid.shape, features.shape[1])  # (B, T, 2 H)
        steps[valid] = features
        hidden, state = self.rnn(steps, state)  # (B, T, R)
        assert state is not None
        return self.image_decoder(hidden[valid], None, skips, None), state
