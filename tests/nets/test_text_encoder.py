"""Tacotron 2's text encoder: its size, padding that changes nothing, and who hears whom."""

import pytest
import torch

from lipbench.nets.text_encoder import ConvTextEncoder

LENGTHS = torch.tensor([4, 9, 1])


def encoder(layers: int = 3) -> ConvTextEncoder:
    torch.manual_seed(0)
    return ConvTextEncoder(12, 6, 8, layers, kernel=3, dropout=0.1)


def tokens(seed: int = 1) -> torch.Tensor:
    return torch.randint(1, 12, (3, 9), generator=torch.Generator().manual_seed(seed))  # also where nothing is valid


def test_size_at_tacotrons_widths() -> None:
    """Section 2.2 written out, with NVIDIA's 148 symbols: its class Encoder and embedding have as many."""
    with torch.device("meta"):
        net = ConvTextEncoder(148, 512, 512)
    convs, lstm = 3 * (512 * 512 * 5 + 512 + 2 * 512), 2 * 4 * 256 * (512 + 256 + 2)
    assert sum(p.numel() for p in net.parameters()) == 148 * 512 + convs + lstm == 5_589_504


@pytest.mark.parametrize("training", [False, True])
def test_what_stands_after_the_length_changes_nothing(training: bool) -> None:
    made, statistics = [], []
    for seed in (1, 2):
        net = encoder().train(training)
        net.dropout.p = 0.0
        ids = torch.where(torch.arange(9) < LENGTHS[:, None], tokens(), tokens(seed))
        made.append(net(ids, LENGTHS))
        statistics += [norm.running_mean for norm in net.norms]
    assert torch.equal(made[0], made[1])
    assert all(torch.equal(a, b) for a, b in zip(statistics[:3], statistics[3:], strict=True))
    assert made[0].shape == (3, 9, 8)
    after = torch.arange(9) >= LENGTHS[:, None]
    assert made[0][after].abs().sum() == 0
    assert (made[0][~after].abs().sum(dim=1) > 0).all()


def test_a_text_is_the_same_alone_and_in_a_batch() -> None:
    net = encoder()
    net(tokens(), LENGTHS)  # statistics that are not those of the beginning
    net.eval()
    together = net(tokens(), LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = net(tokens()[row : row + 1, :length], LENGTHS[row : row + 1])
        torch.testing.assert_close(alone[0], together[row, :length], rtol=0, atol=1e-6)


def test_batch_norm_sees_valid_steps_only() -> None:
    net = encoder(layers=1)
    net.norms[0].momentum = 1.0
    net(tokens(), LENGTHS)
    embedded = net.embedding(tokens()) * (torch.arange(9) < LENGTHS[:, None])[..., None]
    steps = net.convs[0](embedded.transpose(1, 2)).transpose(1, 2)  # (3, 9, 8)
    valid = torch.cat([steps[row, :length] for row, length in enumerate(LENGTHS.tolist())])  # (14, 8)
    torch.testing.assert_close(net.norms[0].running_mean, valid.mean(dim=0))


@pytest.mark.parametrize("place", [0, 8])
def test_every_token_is_felt_at_both_ends(place: int) -> None:
    net, ids, all_valid = encoder().eval(), tokens(), torch.tensor([9, 9, 9])
    other = ids.clone()
    other[:, place] = ids[:, place] % 11 + 1
    assert (net(ids, all_valid) - net(other, all_valid)).abs().sum(dim=2).min() > 0


def test_odd_halves_and_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden 7 and kernel 5"):
        ConvTextEncoder(12, 6, 7)
    with pytest.raises(ValueError, match="hidden 8 and kernel 4"):
        ConvTextEncoder(12, 6, 8, kernel=4)
