import json
import math
from pathlib import Path

import pytest
import torch

from lipbench.nets.avhubert import AVHubert
from lipbench.pretrained import networks, weights
from lipbench.types import View

PUBLISHED = json.loads((Path(__file__).parents[1] / "reference" / "avhubert.json").read_text())["tensors"]
SMALL = {
    **{
        "vocabulary": 9,
        "size": 48,
        "front": 4,
        "widths": [4, 6, 8, 8],
        "width": 16,
        "layers": 2,
        "heads": 2,
        "ffn": 24,
    },
    **{"position_kernel": 4, "position_groups": 2, "decoder_layers": 1, "decoder_heads": 2, "decoder_ffn": 24},
    **{"padding": 0, "end": 1, "beam": 2},
}


@pytest.fixture
def net() -> AVHubert:
    """A small one whose features differ from frame to frame."""
    torch.manual_seed(0)
    made = AVHubert(**SMALL).eval()
    with torch.no_grad():
        for name, p in made.named_parameters():
            if p.dim() > 1 and name.startswith(("blocks.", "decoder.", "fusion.", "position.")):
                p.mul_(3)
    return made


def clips(*lengths: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    shape = len(lengths), max(lengths)
    return torch.rand(*shape, 3, 48, 48), torch.randn(*shape, 104), torch.tensor(lengths)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes():
    """As the published code counts, less the 104 values of its mask embedding."""
    with torch.device("meta"):
        base = AVHubert()
        large = AVHubert(width=1024, layers=24, heads=16, ffn=4096, decoder_layers=9, decoder_heads=8, decoder_ffn=4096)
    assert (count(base), count(base.decoder)) == (160_100_480, 57_480_192)
    assert (count(large), count(large.decoder)) == (476_819_072, 152_196_096)
    assert base.view == View("avhubert_mouth", 96, 96)


def test_names_and_shapes_are_the_published_ones():
    with torch.device("meta"):
        own = {key: list(value.shape) for key, value in AVHubert().state_dict().items()}
    layers = {name: 6 if name.startswith("decoder.") else 12 for name in PUBLISHED}
    names = {name.format(k=k): shape for name, shape in PUBLISHED.items() for k in range(layers[name])}
    found = {networks.avhubert_name(key): shape for key, shape in names.items() if key not in networks._UNUSED}
    assert found == own


def test_company_and_padding_change_nothing(net):
    frames, audio, lengths = clips(7, 4, 1)
    with torch.no_grad():
        for lips, sound in ((True, False), (False, True), (True, True)):
            seen, heard = net.see(frames, lengths) if lips else None, net.hear(audio) if sound else None
            together = net.encode(seen, heard, lengths)
            assert together.shape == (3, 7, 16)
            for row, n in enumerate(lengths.tolist()):
                one = slice(row, row + 1)
                seen = net.see(frames[one, :n], lengths[one]) if lips else None
                alone = net.encode(seen, net.hear(audio[one, :n]) if sound else None, lengths[one])
                torch.testing.assert_close(together[one, :n], alone, rtol=0, atol=1e-5)
                assert not together[row, n:].any()


def test_an_absent_modality_is_zeros(net):
    frames, audio, lengths = clips(5, 3)
    with torch.no_grad():
        seen, heard = net.see(frames, lengths), net.hear(audio)
        nothing = torch.zeros_like(seen)
        torch.testing.assert_close(net.encode(seen, None, lengths), net.encode(seen, nothing, lengths))
        torch.testing.assert_close(net.encode(None, heard, lengths), net.encode(nothing, heard, lengths))
        ways = [net.encode(seen, heard, lengths), net.encode(seen, None, lengths), net.encode(None, heard, lengths)]
    assert all((a - b).abs().max() > 0.01 for a, b in ((ways[0], ways[1]), (ways[1], ways[2]), (ways[2], ways[0])))
    with pytest.raises(ValueError, match="found neither"):
        net.encode(None, None, lengths)


def test_sees_the_gray_middle_and_gradients_reach_it(net):
    frames, _, lengths = clips(3)
    gray = (frames * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(2, keepdim=True).expand_as(frames)
    torch.testing.assert_close(net.see(gray, lengths), net.see(frames, lengths), rtol=0, atol=1e-5)
    frames.requires_grad_()
    net.text_scores(
        net.encode(net.see(frames, lengths), None, lengths), lengths, net.targets([[3, 4]])
    ).sum().backward()
    reached = frames.grad[0].abs().sum(dim=(0, 1)) > 0
    assert reached[2:46, 2:46].all()  # 44 of 48, as 88 of 96
    assert reached.sum() == 44 * 44


def test_positions_are_seen(net):
    """Without the convolution, nothing would tell the order of frames."""
    _, audio, lengths = clips(6)
    with torch.no_grad():
        forward = net.encode(None, net.hear(audio), lengths)
        backward = net.encode(None, net.hear(audio.flip(1)), lengths).flip(1)
    assert (forward - backward).abs().max() > 0.01


def test_scores_see_the_true_symbols_before(net):
    _, audio, lengths = clips(6, 6)
    tokens = net.targets([[3, 4, 5], [7]])
    assert tokens.tolist() == [[3, 4, 5, 1], [7, 1, 0, 0]]
    other = net.targets([[3, 4, 8], [7]])
    with torch.no_grad():
        context = net.encode(None, net.hear(audio), lengths)
        scores, changed = net.text_scores(context, lengths, tokens), net.text_scores(context, lengths, other)
        assert scores.shape == (2, 4, 9)
        assert torch.equal(scores[:, :3], changed[:, :3])  # what position 2 says does not depend on token 2
        assert not torch.equal(scores[0, 3], changed[0, 3])
        before = torch.tensor([[1, 3, 4, 5], [1, 7, 1, 0]])
        assert torch.equal(scores, net.decoder(before, context, lengths))


def test_transcribes_lips_and_audio(net):
    frames, audio, lengths = clips(6, 5, 4)
    with torch.no_grad():
        context = net.encode(net.see(frames, lengths), None, lengths)
        expected = net.decoder.search(context, lengths, begin=1, end=1, beam=2)
    read, heard = net.transcribe(frames, lengths), net.transcribe_audio(audio, lengths)
    assert read == expected
    assert all(read)
    assert all(heard)
    assert read != heard
    frames[1, 2, 0, 20, 20], audio[0, 5, 3] = math.nan, math.inf
    assert net.transcribe(frames, lengths) == [read[0], None, read[2]]
    assert net.transcribe_audio(audio, lengths) == [None, *heard[1:]]


def test_frame_scores_need_a_ctc_head(net):
    _, audio, lengths = clips(4)
    context = net.encode(None, net.hear(audio), lengths)
    with pytest.raises(ValueError, match="without a CTC head"):
        net.frame_scores(context)
    with_head = AVHubert(**SMALL | {"ctc": True})
    assert count(with_head) - count(net) == 17 * 9
    torch.testing.assert_close(with_head.frame_scores(context).exp().sum(-1), torch.ones(1, 4))


def test_comes_back_from_its_weights_file(net, tmp_path):
    symbols = [f"<{k}>" for k in range(9)]
    path = tmp_path / "reader.safetensors"
    weights.save(path, net, arguments=net.arguments, view=net.view, trained_on="", vocabulary=symbols)
    found, _ = weights.load(path, AVHubert)
    assert found.arguments == net.arguments == {**SMALL, "dropout": 0.1, "ctc": False, "length_penalty": 1.0}
    frames, audio, lengths = clips(4)
    with torch.no_grad():
        expected = net.encode(net.see(frames, lengths), net.hear(audio), lengths)
        assert (found.encode(found.see(frames, lengths), found.hear(audio), lengths) - expected).abs().max() < 0.02
