import math

import pytest
import torch

from lipbench.nets import fastspeech


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    assert count(fastspeech.FFTBlock(256, 2, 1024, 9, 0.2)) == 2_885_888
    assert count(fastspeech.DurationPredictor(256)) == 395_009
    assert count(fastspeech.TextEncoder(30, 4, 256, 2, 1024, 9, 0.2)) == 30 * 256 + 4 * 2_885_888 + 512
    assert count(fastspeech.MotionDecoder(4, 256, 2, 1024, 9, 0.2)) == 4 * 2_885_888 + 512 + 1


def test_positions_have_sines_then_cosines() -> None:
    table = fastspeech.positions(5, 8, torch.device("cpu"))
    assert table.shape == (5, 8)
    assert table[2, 0].item() == pytest.approx(math.sin(3), abs=1e-6)  # the first position is 1
    assert table[2, 4].item() == pytest.approx(math.cos(3), abs=1e-6)
    assert table[2, 3].item() == pytest.approx(math.sin(3 / 10000), abs=1e-6)


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    encoder = fastspeech.TextEncoder(30, 2, 16, 2, 24, 9, 0.2).eval()
    predictor = fastspeech.DurationPredictor(16).eval()
    decoder = fastspeech.MotionDecoder(2, 16, 2, 24, 9, 0.2).eval()
    for module in (encoder, predictor, decoder):  # a LayerNorm's bias would leak from padded steps
        for name, p in module.named_parameters():
            if "norm" in name and name.endswith("bias"):
                torch.nn.init.normal_(p)
    tokens = torch.randint(1, 30, (1, 6))
    valid = fastspeech.length_mask(torch.tensor([6]), 6)
    longer, valid_longer = torch.nn.functional.pad(tokens, (0, 9)), fastspeech.length_mask(torch.tensor([6]), 15)
    with torch.no_grad():
        alone, padded = encoder(tokens, valid), encoder(longer, valid_longer)
        torch.testing.assert_close(padded[:, :6], alone, rtol=0, atol=1e-5)
        assert padded[:, 6:].abs().sum() == 0
        torch.testing.assert_close(predictor(padded, valid_longer)[:, :6], predictor(alone, valid), rtol=0, atol=1e-5)
        found = decoder(padded, valid_longer)
        torch.testing.assert_close(found[:, :6], decoder(alone, valid), rtol=0, atol=1e-5)
        assert found[:, 6:].abs().sum() == 0


def test_a_token_is_felt_by_the_others() -> None:
    torch.manual_seed(0)
    encoder = fastspeech.TextEncoder(30, 1, 16, 2, 24, 3, 0.2).eval()
    valid = torch.ones(1, 12, dtype=torch.bool)
    one = torch.full((1, 12), 5)
    other = one.clone()
    other[0, 11] = 6
    with torch.no_grad():
        changed = (encoder(one, valid) - encoder(other, valid)).abs().sum(dim=2)[0]
    assert (changed > 0).all()  # attention reaches everywhere
    assert changed[11] > 10 * changed[0]


def test_expand_repeats_tokens() -> None:
    x = torch.tensor([[[1.0], [2.0], [3.0], [4.0]], [[5.0], [6.0], [7.0], [8.0]]])
    frames, valid = fastspeech.expand(x, torch.tensor([[2, 0, 3, 0], [0, 1, 1, 0]]))
    assert frames[:, :, 0].tolist() == [[1, 1, 3, 3, 3], [6, 7, 0, 0, 0]]
    assert valid.tolist() == [[True] * 5, [True, True, False, False, False]]


def test_whole_frames_rounds_and_never_ends_empty() -> None:
    valid = torch.tensor([[True, True, True, False], [True, True, False, False]])
    log_frames = torch.log1p(torch.tensor([[1.4, 2.6, 0.2, 9.0], [0.2, 0.3, 9.0, 9.0]]))
    frames = fastspeech.predicted_frames(log_frames)
    assert fastspeech.round_durations(frames, valid).tolist() == [[1, 3, 0, 0], [1, 1, 0, 0]]
    assert fastspeech.predicted_frames(torch.tensor([-3.0])).item() == 0


def test_fit_frames_by_largest_remainder() -> None:
    valid = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    frames = torch.tensor([[1.0, 1.0, 1.0], [3.0, 1.0, 50.0], [0.0, 0.0, 0.0]])
    fitted = fastspeech.rescale_durations(frames, valid, torch.tensor([10, 6, 2]))
    assert fitted.tolist() == [[4, 3, 3], [5, 1, 0], [1, 1, 0]]  # 4.5 and 1.5 tie: the earlier token gets the frame
    draw = torch.Generator().manual_seed(0)
    many = torch.rand(200, 30, generator=draw) * 5
    lengths = torch.randint(1, 31, (200,), generator=draw)
    totals = torch.randint(1, 300, (200,), generator=draw)
    some = fastspeech.length_mask(lengths, 30)
    fitted = fastspeech.rescale_durations(many, some, totals)
    assert torch.equal(fitted.sum(dim=1), totals)
    assert fitted.min() >= 0
    assert fitted[~some].abs().sum() == 0
    exact = many.double() * some
    exact *= totals[:, None] / exact.sum(dim=1, keepdim=True)
    assert (fitted - exact).abs().max() < 1


def test_a_known_span_of_speech_leaves_the_inside_to_the_prediction() -> None:
    valid = fastspeech.length_mask(torch.tensor([5, 4]), 5)
    frames = torch.tensor([[9.0, 2.0, 4.0, 2.0, 9.0], [0.0, 1.0, 1.0, 7.0, 8.0]])
    total, speech = torch.tensor([20, 12]), torch.tensor([[3, 11], [0, 9]])
    fitted = fastspeech.fit_durations(frames, valid, total, speech)
    assert fitted.tolist() == [[3, 2, 4, 2, 9], [0, 5, 4, 3, 0]]
    assert torch.equal(
        fastspeech.fit_durations(frames, valid, total), fastspeech.rescale_durations(frames, valid, total)
    )
    assert torch.equal(fastspeech.fit_durations(frames, valid, None), fastspeech.round_durations(frames, valid))


def test_refuses_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="divide by heads"):
        fastspeech.FFTBlock(15, 2, 8, 3, 0.0)
