"""`lipbench embed`: its files, what it prints and logs, and what is typed wrong."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from untrained import checkpoint

from lipbench import cli
from lipbench.data.store import Store
from lipbench.models.wav2lip import Wav2Lip


@pytest.fixture(scope="module")
def wav2lip(tmp_path_factory):
    """Checkpoints of two untrained Wav2Lips."""
    folder, found = tmp_path_factory.mktemp("wav2lip"), []
    for seed in range(2):
        torch.manual_seed(seed)
        sizes = {"widths": (4, 6, 8), "residuals": (1, 0), "decoder_widths": (8, 6, 4), "decoder_residuals": 0}
        heard = {"audio_widths": (8, 8, 8, 8), "audio_residuals": (0, 0, 0, 0), "hidden": 16}
        model = Wav2Lip(12, **sizes, **heard, sync_weight=0.0, adversarial_weight=0.0)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = 1.0
        model.generator.sound(torch.randn(64, 1, 80, 16))  # statistics that leave no map dead
        trained = {"name": "rendered", "protocol": "rendered/seen", "words": None}
        found.append(str(checkpoint(model, folder / f"seed{seed}.ckpt", trained)))
    return found


@pytest.fixture(scope="module")
def frequent(world):
    """The two words that the corpus says most often."""
    texts = Store(world.home / "stores" / "rendered").column("text")
    return Counter(word for text in texts for word in text.split()).most_common(2)


@pytest.fixture(scope="module")
def embedded(world, wav2lip, frequent, tmp_path_factory):
    """Folder of a run that logs to W&B offline."""
    folder = tmp_path_factory.mktemp("embedded")
    words = ["embed", *wav2lip, "--pairs", "/".join(word for word, _ in frequent), "--part", "all"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("LIPBENCH_HOME", str(world.home))
        assert cli.main([*words, "--perplexity", "1", "--wandb", "offline", "--out", str(folder)]) == 0
    return folder


def test_every_word_is_listed_for_each_checkpoint(embedded, frequent):
    words = pd.read_csv(embedded / "words.csv")
    assert set(words["checkpoint"]) == {"wav2lip seed0", "wav2lip seed1"}
    for _, own in words.groupby("checkpoint"):
        assert own["word"].value_counts().to_dict() == dict(frequent)
        assert (own["end_frame"] > own["first_frame"]).all()
        assert np.isfinite(own[["x", "y"]]).all(axis=None)
    sames = [own[["word", "clip_id", "first_frame"]].to_numpy() for _, own in words.groupby("checkpoint")]
    assert (sames[0] == sames[1]).all()
    x = [own["x"].to_numpy() for _, own in words.groupby("checkpoint")]
    assert not np.array_equal(*x)


def test_the_silhouette_is_the_mean_over_the_words(embedded, frequent):
    words, table = pd.read_csv(embedded / "words.csv"), pd.read_csv(embedded / "silhouettes.csv")
    means = words.groupby("checkpoint")["silhouette"].mean()
    assert table["silhouette"].tolist() == pytest.approx(means[table["checkpoint"]].tolist(), abs=1e-5)
    assert table["silhouette"].nunique() == 2
    assert table[["words_first", "words_second"]].to_numpy().tolist() == [[count for _, count in frequent]] * 2
    with Image.open(embedded / "tsne.png") as shown:
        assert (shown.height, shown.width) == (360, 2 * 420)


def test_wandb_holds_the_plot_and_the_silhouettes(embedded):
    (file,) = embedded.rglob("*.wandb")
    table = pd.read_csv(embedded / "silhouettes.csv")
    logged = file.read_bytes()
    for own in table.itertuples():
        assert f"silhouette/{own.pair.replace('/', '-')}/{own.checkpoint}".encode() in logged
        assert f"{own.silhouette:.5f}"[:-1].encode() in logged
    (kept,) = file.parent.rglob("*.png")
    assert kept.read_bytes() == (embedded / "tsne.png").read_bytes()


def test_the_table_and_the_training_clips_are_told(here, wav2lip, frequent, capsys):
    pair = "/".join(word for word, _ in frequent)
    words = ["--pairs", pair, "--part", "all", "--words", "2", "--perplexity", "1", "--labels", "one", "two"]
    assert cli.main(["embed", *wav2lip, *words]) == 0
    told = capsys.readouterr().out
    table = pd.read_csv("embeddings/rendered/silhouettes.csv")
    assert f"{pair} (2, 2)" in told
    for own in table.itertuples():
        assert f"{own.silhouette:.3f}" in told
    assert "clips are training clips of one (rendered/seen)" in told
    assert not list(Path().rglob("wandb"))


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (
            ["PARALIP"],
            "holds ParaLip, which offers no audio embeddings; models that do: cran, talklip, wav2lip. Another model",
            1,
        ),
        (["WAV2LIP", "--pairs", "b"], "--pairs b: expected two words with a slash between them, such as b/p", 2),
        (["WAV2LIP", "--pairs", "b/B"], "--pairs b/B: expected two different words, found 'b' and 'b'", 2),
        (["WAV2LIP", "--pairs", "b/2"], "--pairs b/2: '2' holds '2'", 2),
        (["WAV2LIP", "--pairs", "cat/dog"], "say 'cat', 'dog' less than twice, with times; its words are a", 2),
        (["WAV2LIP", "--pairs", "PAIR", "--part", "all"], "t-SNE looks at 3 x perplexity neighbors of each word", 2),
        (["WAV2LIP", "--perplexity", "nan"], "--perplexity nan: expected 1 or more", 2),
        (["WAV2LIP", "--words", "1"], "--words 1: expected 2 or more", 2),
        (["WAV2LIP", "--pairs", "PAIR", "--part", "all", "--perplexity", "1", "--wandb", "online"], "wandb login", 1),
    ],
)
def test_wrong_words_say_what_to_type(here, wav2lip, frequent, tmp_path, monkeypatch, capsys, words, message, code):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = {"PARALIP": str(here.checkpoint), "WAV2LIP": wav2lip[0], "PAIR": "/".join(word for word, _ in frequent)}
    assert cli.main(["embed", *(found.get(word, word) for word in words)]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.csv"))
