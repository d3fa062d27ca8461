"""Conformer readers: published sizes, outputs of the authors' modules, and what padding and company must not change."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lipbench.nets.conformer import Conformer, relative_positions
from lipbench.pretrained.conformer import TALKLIP_SYMBOLS, from_published

REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "conformer.json").read_text("utf-8"))
LAYOUTS = ("talklip", "auto_avsr")
SMALL: dict[str, Any] = {
    **{"front": 4, "widths": (4, 6, 8, 8), "width": 12, "layers": 2, "heads": 2, "ffn": 16, "kernel": 5},
    **{"decoder_layers": 1, "margin": 1, "beam": 3},
}


def small(layout: str, **options: Any) -> Conformer:
    torch.manual_seed(0)
    return Conformer(layout, **(SMALL | options)).eval()  # type: ignore[arg-type]


def published(layout: str) -> dict[str, torch.Tensor]:
    """Tensors of the published names, filled by a formula."""
    found = {}
    for k, (key, shape) in enumerate(sorted(REFERENCE[layout]["tensors"].items())):
        count = math.prod(shape)
        value = 0.2 * torch.sin(torch.arange(count, dtype=torch.float64) * 0.7 + k)
        if key.endswith("running_var"):
            value = 1 + 2.5 * value
        elif key.endswith("num_batches_tracked"):
            value = torch.zeros(1)
        elif len(shape) > 1:
            value = 7.5 * value * (2 / math.prod(shape[1:])) ** 0.5
        elif key.endswith("weight"):
            value = 1 + value  # of norms
        found[key] = value.float().view(shape)
    return found


def frames_of(side: int) -> torch.Tensor:
    """(1, 5, 3, side, side)."""
    n = torch.arange(5 * 3 * side * side, dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(n * n * 1e-4 + n * 0.01)).float().view(1, 5, 3, side, side)


def clips(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(len(lengths), max(lengths), 3, 18, 26), torch.tensor(lengths)


def test_published_sizes() -> None:
    """As the published modules count, whose first stage in TalkLip's holds a shortcut that is not used."""
    with torch.device("meta"):
        talklip = Conformer(
            "talklip", width=256, heads=4, ffn=2048, outputs=len(TALKLIP_SYMBOLS), end=39, margin=0, beam=1
        )
        auto_avsr = Conformer(outputs=5049, end=5048)
    assert sum(p.numel() for p in talklip.parameters()) == 52_496_656 - 64 * 64
    assert sum(p.numel() for p in auto_avsr.parameters()) == 250_383_410


@pytest.mark.parametrize(("layout", "side"), [("talklip", 112), ("auto_avsr", 96)])
def test_outputs_are_those_of_the_authors_modules(layout: str, side: int) -> None:
    net = from_published(published(layout), Path("published.pth")).eval()
    frames, length = frames_of(side), torch.tensor([5])
    with torch.no_grad():
        ctc, forced = net(frames, length)[0], net.force(frames, length, [[3, 3, 5, 1]])[0]
    torch.testing.assert_close(ctc, torch.tensor(REFERENCE[layout]["ctc"]), rtol=0, atol=2e-5)
    torch.testing.assert_close(forced, torch.tensor(REFERENCE[layout]["forced"]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_and_company_do_not_change_a_clip(layout: str) -> None:
    net = small(layout)
    video, lengths = clips(9, 4, 1)
    texts = [[5, 6, 6], [4], [4]]
    with torch.no_grad():
        together, forced = net(video, lengths), net.force(video, lengths, texts)
        assert together.shape == (3, 9, 30)
        assert forced.shape == (3, 4, 30)
        read = net.transcribe(video, lengths)
        for row, n in enumerate(lengths.tolist()):
            own = video[row : row + 1, :n], lengths[row : row + 1]
            torch.testing.assert_close(together[row, :n], net(*own)[0], rtol=0, atol=1e-5)
            alone = net.force(*own, [texts[row]])
            torch.testing.assert_close(forced[row, : alone.shape[1]], alone[0], rtol=0, atol=1e-5)
            assert net.transcribe(*own) == [read[row]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batch_norm_sees_no_padding(layout: str) -> None:
    def statistics(extra: int) -> list[torch.Tensor]:
        net = small(layout, dropout=0.0).train()
        net(torch.nn.functional.pad(video, (0, 0, 0, 0, 0, 0, 0, extra)), lengths)
        return [value for key, value in net.named_buffers() if "running" in key]

    video, lengths = clips(5, 3)
    for one, other in zip(statistics(0), statistics(6), strict=True):
        torch.testing.assert_close(one, other)


def test_a_text_that_needs_more_frames_gets_features_of_zero_on_both_sides() -> None:
    """As TalkLip's code: "see" and "e" need 4 frames and 1, and a clip of 1 frame gets 1 before and 2 after it."""
    net = small("talklip")
    video, lengths = clips(6, 1)
    with torch.no_grad():
        forced = net.force(video, lengths, [[5], [7, 5, 5]])
        features = torch.zeros(1, 4, 8)
        features[0, 1] = net._features(video[1:, :1], lengths[1:])[0, 0]
        memory = net.encoder(features, torch.ones(1, 4, dtype=torch.bool))
        expected = net.decode(memory, torch.tensor([4]), [[7, 5, 5]])
        torch.testing.assert_close(forced[1], expected[0], rtol=0, atol=1e-5)
        alone = net.force(video[:1], lengths[:1], [[5]])
        torch.testing.assert_close(forced[0, :2], alone[0], rtol=0, atol=1e-5)


def test_forced_scores_depend_on_the_symbols_before_and_not_on_later_ones() -> None:
    net = small("auto_avsr")
    video, lengths = clips(6)
    with torch.no_grad():
        first, other = net.force(video, lengths, [[4, 5, 6]])[0], net.force(video, lengths, [[4, 9, 6]])[0]
    torch.testing.assert_close(first[:2], other[:2], rtol=0, atol=1e-6)
    assert bool(((first[2:] - other[2:]).abs().amax(1) > 1e-3).all())


def test_distances_count_in_both_directions() -> None:
    found = relative_positions(4, 6, torch.device("cpu"))[0]  # 3, 2, 1, 0, -1, -2, -3
    assert found.shape == (7, 6)
    torch.testing.assert_close(found[0, :2], torch.tensor([math.sin(3), math.cos(3)]))
    torch.testing.assert_close(found[3], torch.tensor([0.0, 1.0] * 3))
    torch.testing.assert_close(
        found[6, 2:4], torch.tensor([-math.sin(3 * 1e-4 ** (1 / 3)), math.cos(3 * 1e-4 ** (1 / 3))])
    )


def test_the_margin_is_not_seen() -> None:
    net = small("auto_avsr", margin=3)
    video, lengths = clips(4)
    inside = torch.zeros_like(video)
    inside[..., 3:-3, 3:-3] = video[..., 3:-3, 3:-3]
    with torch.no_grad():
        torch.testing.assert_close(net(inside, lengths), net(video, lengths), rtol=0, atol=1e-6)
        inside[..., 4, 4] += 1
        assert not torch.allclose(net(inside, lengths), net(video, lengths), atol=1e-4)


def test_nothing_is_read_in_broken_frames() -> None:
    net = small("auto_avsr")
    video, lengths = clips(5, 5)
    whole = net.transcribe(video, lengths)
    video[0, 2, 0, 9, 9] = torch.nan
    assert net.transcribe(video, lengths) == [None, whole[1]]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layout": "espnet"}, "the layout of a Conformer is one of talklip, auto_avsr, found 'espnet'"),
        ({"width": 10, "heads": 4}, "a width of 10, 4 heads and a kernel of 5"),
        ({"kernel": 4}, "the kernel must be odd"),
        ({"layout": "talklip", "front": 6}, "front must be the first of the widths; found 6 and 4"),
        ({"end": 0}, "the end must be a symbol other than 0, the blank, and below 30; found 0"),
    ],
)
def test_refuses_what_does_not_fit(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Conformer(**(SMALL | options))
