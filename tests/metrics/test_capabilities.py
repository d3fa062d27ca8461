"""Networks judge by what they do: a decoder of sequences, subwords, words as classes, embeddings; no class is named."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lipbench.errors import Unavailable
from lipbench.media import text
from lipbench.pretrained import networks, weights
from lipbench.scoring import observers, readers
from lipbench.scoring.readers import Reader, spelled
from lipbench.types import View

VIEW = View("mouth", 4, 6)
SUBWORDS = ("<blank>", "▁bin", "▁b", "lue", "▁at", "<eos>")


def card(vocabulary, architecture="made.Up"):
    return weights.Card(architecture, {}, VIEW, "nothing", tuple(vocabulary), "0", "ab" * 32)


def test_symbols_spell_words():
    assert spelled(text.encode(list("|bin|at|")), text.SYMBOLS) == "bin at"
    assert spelled([1, 2, 3, 4, 5, 4], SUBWORDS) == "bin blue at"
    assert spelled([2, 0, 1], ("about", "after", "again")) == "again about after"
    assert spelled([], SUBWORDS) == ""


class Frames(nn.Module):
    """A class a frame, by its brightness in tenths."""

    def forward(self, frames, length):
        return torch.nn.functional.one_hot((frames.mean((2, 3, 4)) * 10).round().long().clamp(0, 5), 6).float().log()


class Decoder(nn.Module):
    """A sequence decoder of its own."""

    def transcribe(self, frames, length):
        return [[1, 2, 3] if count > 1 else None for count in length.tolist()]


class Words(nn.Module):
    """A class a clip."""

    def forward(self, frames, length):
        bright = frames.mean((1, 2, 3, 4))
        return torch.stack([1 - bright, bright], 1)


def video(*levels):
    return torch.tensor(levels)[None, :, None, None, None].expand(1, len(levels), 3, 4, 6) / 10


def test_networks_write_in_their_own_way():
    length = torch.tensor([5])
    assert Reader(Frames(), card(SUBWORDS)).read(video(1, 1, 0, 2, 3), length) == ["bin blue"]
    assert Reader(Decoder(), card(SUBWORDS)).read(video(1, 1, 0, 2, 3), length) == ["bin blue"]
    assert Reader(Decoder(), card(SUBWORDS)).read(video(1), torch.tensor([1])) == [None]
    assert Reader(Words(), card(("about", "after"))).read(video(9, 9), torch.tensor([2])) == ["after"]
    assert Reader(Words(), card(("about", "after"))).read(video(float("nan"), 1), torch.tensor([2])) == [None]
    with pytest.raises(Unavailable, match=r"made\.Up, which does not read: no vocabulary"):
        Reader(Frames(), card(()))
    with pytest.raises(ValueError, match="has 6 outputs for 2 symbols"):
        Reader(Frames(), card(("a", "b"))).read(video(1), torch.tensor([1]))


def test_such_a_reader_is_an_observer(monkeypatch):
    monkeypatch.setattr(readers.weights, "load", lambda path, kind: (Decoder(), card(SUBWORDS)))
    observer = observers.MAKE["transcript"]({"transcript": "file"}, None)
    assert observer.judge == f"made.Up sha256 {'ab' * 8}"
    clip = SimpleNamespace(broken=torch.zeros(3, dtype=torch.bool), pictures=lambda view: torch.rand(3, 3, *view.size))
    assert observer.observe(clip) == "bin blue"
    clip.broken[1] = True
    assert observer.observe(clip) is None


class Towers(nn.Module):
    """Embeds frames and audio, and is no SyncNet of ours."""

    view = VIEW

    def embed_video(self, frames):
        return frames

    def embed_audio(self, mfcc):
        return mfcc


class Faces(nn.Module):
    """Embeds faces: their mean colors."""

    def embed_faces(self, frames):
        return frames.mean((2, 3))


def test_embeddings_are_told_by_their_methods(monkeypatch, tmp_path):
    (tmp_path / "x.safetensors").touch()
    path = str(tmp_path / "x.safetensors")
    monkeypatch.setattr(weights, "load", lambda file, kind: (Towers(), card(())))
    assert isinstance(networks.load_syncnet(path)[0], Towers)
    with pytest.raises(Unavailable, match=r"holds a made\.Up, which embeds no faces"):
        observers.MAKE["identity"]({"identity": path}, None)
    monkeypatch.setattr(weights, "load", lambda file, kind: (Faces(), card(())))
    with pytest.raises(ValueError, match="where a SyncNet is wanted: embed_video, embed_audio"):
        networks.load_syncnet(path)
    observer = observers.MAKE["identity"]({"identity": path}, None)
    frames = torch.rand(2, 3, 4, 6)
    clip = SimpleNamespace(broken=torch.tensor([False, True]), pictures=lambda view: frames)
    found = observer.observe(clip)
    assert torch.equal(found[0], frames[0].mean((1, 2)))
    assert found[1].isnan().all()
