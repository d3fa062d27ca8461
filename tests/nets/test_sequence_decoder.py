import itertools
import math

import pytest
import torch
from torch import nn

from lipbench.nets.sequence_decoder import SequenceDecoder

PAD, END, LETTERS = 0, 1, (2, 3)


def tiny(vocabulary: int = 4, layout: str = "fairseq", seed: int = 0) -> SequenceDecoder:
    """A decoder with strong opinions, which depend on all that came before."""
    torch.manual_seed(seed)
    net = SequenceDecoder(vocabulary, 8, 2, 2, 12, 6, 0.3, layout, PAD).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(0, 0.5)
    return net


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes():
    """AV-HuBERT's decoders with a dictionary of 1,000, and ESPnet's of the reader in TalkLip."""
    assert count(SequenceDecoder(1000, 768, 6, 4, 3072)) == 57_480_192
    assert count(SequenceDecoder(1000, 1024, 9, 8, 4096)) == 152_196_096
    assert count(SequenceDecoder(40, 256, 6, 4, 2048, layout="espnet", padding=None)) == 9_493_544


@pytest.mark.parametrize("layout", ["fairseq", "espnet"])
def test_blocks_are_torchs(layout):
    net = tiny(9, layout)
    blocks = []
    for own in net.blocks:
        block = nn.TransformerDecoderLayer(8, 2, 12, batch_first=True, norm_first=True).eval()
        block.multihead_attn = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True)
        for theirs, attention in ((block.self_attn, own.self_attention), (block.multihead_attn, own.memory_attention)):
            projections = [attention.query, attention.key, attention.value]
            state = {"in_proj_bias": torch.cat([p.bias for p in projections])}
            state |= {f"out_proj.{key}": value for key, value in attention.out.state_dict().items()}
            if theirs.in_proj_weight is None:
                state |= {f"{n}_proj_weight": p.weight for n, p in zip("qkv", projections, strict=True)}
            else:
                state["in_proj_weight"] = torch.cat([p.weight for p in projections])
            theirs.load_state_dict(state)
        for theirs, mine in (("linear1", own.ffn[0]), ("linear2", own.ffn[3]), ("norm1", own.self_norm),
                             ("norm2", own.memory_norm), ("norm3", own.ffn_norm)):  # fmt: skip
            getattr(block, theirs).load_state_dict(mine.state_dict())
        blocks.append(block)
    tokens, memory, lengths = torch.randint(1, 9, (2, 5)), torch.randn(2, 7, 6), torch.tensor([7, 4])
    rates = 10000.0 ** (-torch.arange(4) / (3 if layout == "fairseq" else 4))
    angles = (torch.arange(5) + (PAD + 1 if layout == "fairseq" else 0))[:, None] * rates
    if layout == "fairseq":
        x = net.embedding(tokens) + torch.cat([angles.sin(), angles.cos()], 1)
    else:
        x = net.embedding(tokens) * math.sqrt(8) + torch.stack([angles.sin(), angles.cos()], 2).flatten(1)
    future = torch.ones(5, 5, dtype=torch.bool).triu(1)
    absent = torch.arange(7) >= lengths[:, None]
    with torch.no_grad():
        for block in blocks:
            x = block(x, memory, tgt_mask=future, memory_key_padding_mask=absent)
        x = net.norm(x)
        expected = x @ net.embedding.weight.T if layout == "fairseq" else net.output(x)
        torch.testing.assert_close(net(tokens, memory, lengths), expected, rtol=0, atol=1e-5)


def written_by_forward(net, memory, lengths, row, longest):
    """Arg-max of whole sequences, none kept in a cache."""
    ids = [END]
    while len(ids) <= longest:
        scores = net(torch.tensor([ids]), memory[row : row + 1], lengths[row : row + 1])[0, -1]
        scores[PAD] = -math.inf
        if len(ids) == 1:
            scores[END] = -math.inf
        ids.append(int(scores.argmax()))
        if ids[-1] == END:
            return ids[1:-1]
    return ids[1:]


@pytest.mark.parametrize("layout", ["fairseq", "espnet"])
def test_a_beam_of_one_takes_the_likeliest_symbol(layout):
    net = tiny(12, layout, seed=4)
    memory, lengths = 3 * torch.randn(6, 8, 6), torch.tensor([8, 8, 8, 5, 3, 1])
    with torch.no_grad():
        expected = [written_by_forward(net, memory, lengths, row, int(lengths[row])) for row in range(6)]
        found = net.search(memory, lengths, begin=END, end=END)
    assert found == expected
    assert len({len(ids) for ids in found}) > 2  # some end by themselves, before the longest


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_that_holds_everything_finds_the_best(penalty):
    greedy_is_best = True
    for seed in range(12):
        net = tiny(seed=seed)
        memory, lengths = 2 * torch.randn(3, 4, 6), torch.tensor([4, 4, 2])
        found = net.search(memory, lengths, begin=END, end=END, beam=20, longest=3, length_penalty=penalty)
        for row in range(3):
            scores = {}
            for ids in (ids for size in (1, 2, 3) for ids in itertools.product(LETTERS, repeat=size)):
                with torch.no_grad():
                    logits = net(torch.tensor([[END, *ids]]), memory[row : row + 1], lengths[row : row + 1])[0]
                steps = logits.log_softmax(-1).gather(1, torch.tensor([*ids, END])[:, None])
                scores[ids] = float(steps.sum()) / (len(ids) + 1) ** penalty
            assert tuple(found[row]) == max(scores, key=scores.get)
        greedy_is_best &= found == net.search(memory, lengths, begin=END, end=END, longest=3)
    assert not greedy_is_best


def test_company_and_padding_change_nothing():
    net = tiny(12, seed=2)
    memory, lengths = 3 * torch.randn(4, 9, 6), torch.tensor([9, 6, 2, 4])
    together = net.search(memory, lengths, begin=END, end=END, beam=3)
    memory[1, 6:] = math.nan
    alone = [net.search(memory[k : k + 1, :n], lengths[k : k + 1], begin=END, end=END, beam=3)[0]
             for k, n in enumerate(lengths.tolist())]  # fmt: skip
    assert net.search(memory, lengths, begin=END, end=END, beam=3) == together == alone


def test_a_memory_that_is_not_finite_is_not_read():
    net = tiny(12, seed=2)
    memory, lengths = torch.randn(3, 5, 6), torch.tensor([5, 5, 3])
    memory[1, 2, 0] = math.nan
    found = net.search(memory, lengths, begin=END, end=END, beam=2)
    assert found[1] is None
    assert found[0]
    assert found[2]
    memory[:, 0] = math.inf
    assert net.search(memory, lengths, begin=END, end=END) == [None] * 3


def test_refusals():
    with pytest.raises(ValueError, match="one of fairseq, espnet, found 'torch'"):
        SequenceDecoder(4, 8, 1, 2, 8, layout="torch")
    with pytest.raises(ValueError, match="found 8 and 3"):
        SequenceDecoder(4, 8, 1, 3, 8)
    with pytest.raises(ValueError, match="begin after the padding"):
        SequenceDecoder(4, 8, 1, 2, 8, padding=None)
    with pytest.raises(ValueError, match="at least 1, found 0"):
        tiny().search(torch.zeros(1, 2, 6), torch.tensor([2]), begin=END, end=END, beam=0)
