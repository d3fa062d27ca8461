"""MVM against the published layers: names and shapes of its source, the memory by hand, windows and mirror images."""

import numpy as np
import pytest
import torch
from made_up_weights import made_up
from torch import nn
from torch.nn import functional as F

from lipbench.nets import mvm
from lipbench.pretrained import conversion, networks, weights
from lipbench.types import View

SMALL = {
    **{"size": 32, "front": 4, "widths": (4, 4, 6, 8), "embedding": 8, "audio_widths": (2, 4), "channels": 12},
    **{"slots": 5, "heads": 2, "outputs": 3, "frames": 7},
}


def small(**options):
    torch.manual_seed(0)
    return mvm.MVM(**(SMALL | options))


def published():
    """Names and shapes of the checkpoint, as `src/models` at commit a902f49 makes them."""
    shapes = {}

    def layer(name, *shape, bias=False):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def norm(name, width):
        layer(name, width, bias=True)
        shapes[f"{name}.running_mean"] = shapes[f"{name}.running_var"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def block(name, before, after, project):
        norm(f"{name}.res_layer.0", before)
        layer(f"{name}.res_layer.1", after, before, 3, 3)
        norm(f"{name}.res_layer.2", after)
        layer(f"{name}.res_layer.3", after)
        layer(f"{name}.res_layer.4", after, after, 3, 3)
        norm(f"{name}.res_layer.5", after)
        if project:
            layer(f"{name}.shortcut_layer.0", after, before, 1, 1)
            norm(f"{name}.shortcut_layer.1", after)

    def memory(name, width, widen):
        shapes[f"{name}.key"], shapes[f"{name}.value"] = (8 * 112, 64), (112, 512)
        layer(f"{name}.linear", width, 8 * 512, bias=True)
        for k in (1, 2, 3):
            layer(f"{name}.norm{k}", width, bias=True)
        layer(f"{name}.q_embd", 512, width, bias=True)
        layer(f"{name}.v_embd", 512, 512, bias=True)
        if widen:
            layer(f"{name}.v_up", width, 512, bias=True)

    part = "v_front_state_dict"
    layer(f"{part}.frontend.0", 64, 1, 5, 7, 7)
    norm(f"{part}.frontend.1", 64)
    layer(f"{part}.frontend.2", 64)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        block(f"{part}.resnet.layer{stage}.0", before, width, True)
        block(f"{part}.resnet.layer{stage}.1", width, width, False)
        before = width
    norm(f"{part}.resnet.out_layer.0", 512)
    layer(f"{part}.resnet.out_layer.3", 512, 512 * 4 * 4, bias=True)
    layer(f"{part}.resnet.out_layer.4", 512, bias=True)
    part = "a_front_state_dict"
    for k, (into, width) in enumerate(((1, 128), (128, 256))):
        layer(f"{part}.frontend.{3 * k}", width, into, 3, 3, bias=True)
        norm(f"{part}.frontend.{3 * k + 1}", width)
        layer(f"{part}.frontend.{3 * k + 2}", width)
    block(f"{part}.Res_block.0", 256, 256, False)
    norm(f"{part}.Res_block.1", 256)
    layer(f"{part}.Linear.0", 512, 256 * 20, bias=True)
    layer(f"{part}.Linear.1", 512, bias=True)
    memory("mem_state_dict", 512, False)
    part = "tcn_state_dict.tcn.mb_ms_tcn"
    for stage in range(1, 5):
        for k in (0, 1):
            for branch, kernel in enumerate((3, 5, 7)):
                name = f"{part}.layer{stage}.cbcr{k}_{branch}"
                layer(f"{name}.conv", 256, 512 if stage == 1 and k == 0 else 768, kernel, bias=True)
                norm(f"{name}.batchnorm", 256)
                layer(f"{name}.non_lin", 256)
        layer(f"{part}.layer{stage}.downsample", 768, 512 if stage == 1 else 768, 1, bias=True)
        layer(f"{part}.layer{stage}.relu_final", 768)
        if stage < 4:
            memory(f"{part}.mem{stage}", 768, True)
    layer("tcn_state_dict.tcn.tcn_output", 500, 768, bias=True)
    return shapes


def test_has_the_published_layers_and_parameters():
    with torch.device("meta"):
        net = mvm.MVM()
        named = mvm.renamed({name: torch.zeros(shape) for name, shape in published().items()})
    own = {name: value.shape for name, value in net.state_dict().items()}
    assert {name: value.shape for name, value in named.items()} == own
    counts = {part: sum(p.numel() for p in child.parameters()) for part, child in net.named_children()}
    assert counts["front_end"] + counts["trunk"] + counts["embed"] == 15_388_800
    assert counts["audio"] + counts["embed_audio"] == 4_102_528
    assert sum(p.numel() for p in net.memories[0].parameters()) == 2_740_736
    assert sum(counts.values()) == 60_368_372
    assert (net.view, net.frames, net.flip) == (View("mvm_mouth", 112, 112), 29, True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Made-up weights with the names and shapes of the published checkpoint, small on disk."""
    path = tmp_path_factory.mktemp("published") / "Pretrained_Ckpt.ckpt"
    parts = {part: {} for part in mvm.PUBLISHED}
    for name, value in made_up(published()).items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    torch.save(parts, path)
    return path


def test_the_published_checkpoint_is_converted(checkpoint, tmp_path):
    listed = [f"WORD{k:03d}" for k in range(500)]
    words, out = tmp_path / "words.txt", tmp_path / "out.safetensors"
    words.write_text("\n".join(reversed(listed)))
    card = conversion.convert("mvm", checkpoint, out, words)
    assert card.vocabulary == tuple(word.lower() for word in listed)  # sorted, as the published loader takes them
    assert (card.view, card.arguments["flip"]) == (View("mvm_mouth", 112, 112), True)
    assert "License of its code: CC BY-NC 4.0" in card.trained_on
    own, stored = weights.load(out, mvm.MVM)[0].state_dict(), torch.load(checkpoint, weights_only=True)
    for name, part, theirs in (
        ("trunk.4.shortcut.0.weight", "v_front_state_dict", "resnet.layer3.0.shortcut_layer.0.weight"),
        ("audio.6.residual.4.weight", "a_front_state_dict", "Res_block.0.res_layer.4.weight"),
        ("memories.0.key", "mem_state_dict", "key"),
        ("memories.2.norm_audio.bias", "tcn_state_dict", "tcn.mb_ms_tcn.mem2.norm3.bias"),
        ("blocks.3.stages.1.2.conv.weight", "tcn_state_dict", "tcn.mb_ms_tcn.layer4.cbcr1_2.conv.weight"),
        (
            "blocks.1.stages.0.0.norm.running_var",
            "tcn_state_dict",
            "tcn.mb_ms_tcn.layer2.cbcr0_0.batchnorm.running_var",
        ),
    ):
        torch.testing.assert_close(own[name], stored[part][theirs], rtol=1e-3, atol=1e-5)


def test_scores_are_those_of_the_published_modules(checkpoint):
    """What `src/models` prints for these weights (in eval mode), this noise for frames, and this for audio."""
    net, _ = networks.load_mvm(checkpoint)
    rng = np.random.default_rng(1)
    gray = torch.from_numpy(rng.standard_normal((1, 29, 112, 112), dtype=np.float32))
    mel = torch.from_numpy(rng.standard_normal((1, 80, 116), dtype=np.float32))
    with torch.no_grad():
        learned = net.learn(gray, mel)
    video, audio = torch.tensor([-0.14709, -0.65114, -0.9315, -0.89234]), [0.75862, -0.33969, 0.15814, -1.78968]
    torch.testing.assert_close(learned.video[0, :4], video, rtol=0, atol=5e-5)
    torch.testing.assert_close(learned.audio[0, :4], torch.tensor(audio), rtol=0, atol=5e-5)
    assert learned.reconstruction.item() == pytest.approx(26.10625, abs=1e-4)
    assert learned.contrast.item() == pytest.approx(214.10857, abs=1e-3)


def test_files_that_do_not_fit_are_refused(checkpoint, tmp_path):
    words, out, other = tmp_path / "words.txt", tmp_path / "out.safetensors", tmp_path / "other.ckpt"
    with pytest.raises(FileNotFoundError, match=r"no list of words at .*words.txt"):
        conversion.convert("mvm", checkpoint, out, words)
    for content, message in (
        (b"ABOUT\nAFTER\n\n", "holds 2 words, and Pretrained_Ckpt.ckpt has 500 outputs"),
        (b"ABOUT\nAFTER\nabout\n", "the line 'about' stands twice, or holds a space"),
        (b"ABOUT AFTER\n", "the line 'about after' stands twice, or holds a space"),
        (b"\xff\xfe\x00", "is no list of words: it is no text in UTF-8"),
    ):
        words.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            conversion.convert("mvm", checkpoint, out, words)
    stored = torch.load(checkpoint, weights_only=True)
    memory = stored.pop("mem_state_dict")
    for changed, message in (
        (
            stored,
            "holds v_front_state_dict, a_front.* expected a checkpoint with tensors in its entry 'mem_state_dict'",
        ),
        ({**stored, "mem_state_dict": {"key": memory["key"]}}, "does not fit MVM: 13 tensors are missing"),
        ({**stored, "mem_state_dict": {**memory, "key": memory["value"]}}, r"memories.0.key has shape \(112, 512\)"),
        ({**stored, "mem_state_dict": {**memory, "extra": memory["value"]}}, "memories.0.extra"),
        (
            {**stored, "mem_state_dict": {**memory, "key": 3}},
            "holds dict; expected a checkpoint with tensors in its entry 'mem_state_dict'",
        ),
    ):
        torch.save(changed, other)
        with pytest.raises(ValueError, match=message):
            networks.load_mvm(other)
    assert not out.exists()


def test_names_that_are_not_published_stay():
    assert set(mvm.renamed({"mem_state_dict.key": torch.zeros(1), "x.key": torch.zeros(1)})) == {
        "memories.0.key",
        "x.key",
    }


def test_maps_have_the_published_sizes():
    net = mvm.MVM(front=2, widths=(2, 2, 2, 2), embedding=8, audio_widths=(2, 4), channels=6)
    found = {}
    for name in ("front_end", "trunk.1", "trunk.3", "trunk.7", "audio.2", "audio.8", "blocks.0", "blocks.3"):
        net.get_submodule(name).register_forward_hook(lambda _, __, x, name=name: found.update({name: tuple(x.shape)}))
    net.learn(torch.zeros(1, 29, 112, 112), torch.zeros(1, 80, 116))
    assert found["front_end"] == (29, 2, 28, 28)
    assert [found[f"trunk.{k}"][2:] for k in (1, 3, 7)] == [(28, 28), (14, 14), (4, 4)]
    assert found["audio.2"] == (1, 2, 40, 58)
    assert found["audio.8"] == (1, 4, 20, 29)
    assert found["blocks.0"] == found["blocks.3"] == (1, 6, 29)


def test_memory_by_hand():
    torch.manual_seed(0)
    memory = mvm.Memory(6, 8, slots=3, heads=2, radius=4.0, widen=True).eval()
    for part in (memory.norm, memory.norm_video, memory.norm_audio):
        nn.init.uniform_(part.weight)
        nn.init.uniform_(part.bias)
    x, heard = torch.randn(1, 1, 6), torch.randn(1, 1, 8)
    query, found = memory.query(x[0, 0]), []
    for head in range(2):
        keys = memory.key[3 * head : 3 * head + 3]
        cosines = F.cosine_similarity(query[4 * head : 4 * head + 4][None], keys)
        found.append((4 * cosines).softmax(0) @ memory.value)
    expected = memory.norm(x[0, 0] + memory.norm_video(memory.join(torch.cat(found))))
    torch.testing.assert_close(memory(x)[0, 0], expected)

    cosines = F.cosine_similarity(memory.address(heard[0, 0])[None], memory.value)
    recalled = (4 * cosines).softmax(0) @ memory.value
    torch.testing.assert_close(memory.find(heard)[0, 0], recalled)
    expected = memory.norm(x[0, 0] + memory.norm_audio(memory.widen(recalled)))
    torch.testing.assert_close(memory(x, memory.find(heard))[0, 0], expected)

    pairs = [F.cosine_similarity(memory.value[a], memory.value[b], dim=0).abs() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert memory.contrast().item() == pytest.approx(sum(pairs).item(), abs=1e-5)


def test_only_audio_writes_the_values_and_nothing_reaches_its_front_end():
    net = small()
    gray, mel = torch.randn(4, 7, 32, 32), torch.randn(4, 80, 28)
    learned = net.learn(gray, mel)
    net.zero_grad()
    learned.video.logsumexp(1).sum().backward(retain_graph=True)
    assert all(memory.value.grad is None for memory in net.memories)
    assert all(memory.key.grad.abs().sum() > 0 for memory in net.memories)
    (learned.audio.logsumexp(1).sum() + learned.reconstruction + learned.contrast).backward()
    silent = {name.partition(".")[0] for name, p in net.named_parameters() if p.grad is None}
    assert silent == {"audio", "embed_audio"}
    assert not any(p.requires_grad for p in (*net.audio.parameters(), *net.embed_audio.parameters()))
    assert not torch.equal(net.audio[1].running_mean, torch.zeros(2))  # yet its statistics follow the audio


def test_losses_of_the_memories_are_weighed_as_published():
    net = small(layers=3).eval()
    gray, mel = torch.randn(2, 7, 32, 32), torch.randn(2, 80, 28)
    learned, heard = net.learn(gray, mel), net.hear(mel)
    lost = [(1 - F.cosine_similarity(memory.find(heard), heard, dim=2)).sum(1).mean() for memory in net.memories]
    assert learned.reconstruction.item() == pytest.approx((lost[0] + lost[1] + lost[2]).item() / 3, rel=1e-5)
    apart = [memory.contrast() for memory in net.memories]
    assert learned.contrast.item() == pytest.approx(sum(apart).item() / 3, rel=1e-5)
    four = small().eval()
    apart = [memory.contrast().item() for memory in four.memories]
    expected = apart[0] / 3 + 2 * sum(apart[1:]) / 9
    assert four.learn(gray, mel).contrast.item() == pytest.approx(expected, rel=1e-5)


def test_branch_is_a_convolution_of_the_same_length_whose_statistics_know_its_ends():
    torch.manual_seed(0)
    branch = mvm.Branch(3, 4, kernel=5, dilation=2)
    x = torch.randn(2, 3, 9)
    whole = F.conv1d(x, branch.conv.weight, branch.conv.bias, padding=8, dilation=2)  # (2, 4, 17)
    branch(x)
    torch.testing.assert_close(branch.norm.running_mean, 0.1 * whole.mean((0, 2)))
    branch.eval()
    same = F.conv1d(x, branch.conv.weight, branch.conv.bias, padding=4, dilation=2)
    torch.testing.assert_close(branch(x), branch.rectifier(branch.norm(same)))


def test_windows_lie_in_the_middle_and_repeat_the_ends():
    net = small()
    video = torch.rand(2, 12, 3, 32, 32)
    gray = torch.einsum("btchw,c->bthw", video, torch.tensor([0.299, 0.587, 0.114]))
    gray = (gray - 0.4136) / 0.17
    found = net.windows(video, torch.tensor([12, 4]), torch.tensor([0, 1, 0]), torch.tensor([2, -2, 9]))
    for row, (clip, frames) in zip(
        found, ((0, range(2, 9)), (1, (0, 0, 0, 1, 2, 3, 3)), (0, (9, 10, 11, 11, 11, 11, 11))), strict=True
    ):
        torch.testing.assert_close(row, gray[clip, list(frames)])


def test_padding_and_company_do_not_change_a_clip():
    net = small().eval()
    video, length = torch.rand(3, 11, 3, 32, 32), torch.tensor([11, 7, 4])
    with torch.no_grad():
        together = net(video, length)
        assert together.shape == (3, 3)
        for row, count in enumerate(length.tolist()):
            alone = net(video[row : row + 1, :count], length[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
        middle = net(video[:1, 2:9], torch.tensor([7]))
        torch.testing.assert_close(together[:1], middle, rtol=0, atol=1e-5)
        video[0, 5, 0, 3, 3] = torch.nan
        assert net(video, length).isnan().all(1).tolist() == [True, False, False]


def test_scores_are_the_mean_of_a_clip_and_its_mirror_image():
    both, plain = small().eval(), small(flip=False).eval()
    video, length = torch.rand(2, 7, 3, 32, 32), torch.tensor([7, 7])
    with torch.no_grad():
        one, mirrored = plain(video, length), plain(video.flip(-1), length)
        assert (one - mirrored).abs().max() > 1e-4
        torch.testing.assert_close(both(video, length), (one + mirrored) / 2, rtol=0, atol=1e-5)


def test_comes_back_from_a_weights_file(tmp_path):
    net = small().eval()
    words = ("about", "after", "again")
    weights.save(
        tmp_path / "mvm.safetensors", net, arguments=net.arguments, view=net.view, trained_on="", vocabulary=words
    )
    found, card = weights.load(tmp_path / "mvm.safetensors", mvm.MVM)
    assert (card.vocabulary, card.view) == (words, View("mvm_mouth", 32, 32))
    video, length = torch.rand(2, 7, 3, 32, 32), torch.tensor([7, 7])
    with torch.no_grad():
        torch.testing.assert_close(found(video, length), net(video, length), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    "options", [{"heads": 3}, {"channels": 13}, {"kernels": (3, 4), "channels": 12}, {"layers": 1}], ids=str
)
def test_refuses_sizes_that_do_not_fit(options):
    with pytest.raises(ValueError, match="MVM needs an embedding"):
        small(**options)
