"""The judges that come with lipbench: whole, small, named by their hashes, and able to judge."""

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from lipbench import discovery
from lipbench.evaluation import bank as banks
from lipbench.evaluation import selfcheck
from lipbench.pretrained import bundled, weights
from lipbench.scoring.views import MOUTH

FILES = sorted(bundled.FOLDER.glob("*.safetensors"))
NAMES = {
    "lipnet-small[rendered]",
    "lipresnet-small[rendered]",
    "syncnet-small[rendered]",
    "lipnet-small[grid-s1]",
    "lipresnet-small[grid-s1]",
    "syncnet-small[grid-s1]",
}


def test_every_file_judges_and_every_judge_is_there():
    assert {path.stem for path in FILES} == NAMES
    protocols = [name for kind in ("grid", "rendered") for name in discovery.protocols(discovery.files("data")[kind])]
    named = {file for name in protocols for file in bundled.judges(name).values()}
    assert named == {str(path) for path in FILES}
    for own in ("rendered/seen", "grid/s1"):
        assert set(bundled.judges(own)) == {"transcript", "second_transcript", "syncnet"}
    for other in ("grid/seen", "grid/unseen"):  # they hold speakers, or clips of s1, that the judges do not know
        assert bundled.judges(other) == {}


def test_hashes_are_those_beside_the_files():
    lines = [line.split("  ") for line in (bundled.FOLDER / "SHA256SUMS").read_text().splitlines()]
    assert {name: digest for digest, name in lines} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_small_and_trained_on_what_they_may_have_seen(path: Path):
    net, card = weights.load(path, nn.Module)
    assert sum(parameter.numel() for parameter in net.parameters()) <= 2_000_000
    assert path.stat().st_size < 5_000_000
    corpus = path.stem.partition("[")[2].rstrip("]")
    assert card.trained_on.startswith({"rendered": "rendered/judges, ", "grid-s1": "grid/s1, "}[corpus])
    assert path.stem in (bundled.FOLDER / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def scores():
    """Scores of the truth and of the frozen first frame, of two clips of a speaker whom no judge has seen."""
    bank = banks.Bank(["sync", "cer", "cer[second]"], bundled.judges("rendered/unseen"))
    scene = bank.scene(selfcheck.clips(), MOUTH)
    truth, frozen = bank.row(), bank.row()
    with torch.inference_mode():
        truth.update(scene.reference, scene)
        frozen.update(scene.take(scene.reference.native[:, :1].expand_as(scene.reference.native)), scene)
    return [{name: clips.value.mean() for name, clips in row.local_scores().items()} for row in (truth, frozen)]


@pytest.mark.parametrize("column", ["cer", "cer[second]"])
def test_the_readers_read_a_stranger(scores, column):
    truth, frozen = scores
    assert truth[column] < 0.3 < 0.6 < frozen[column]


def test_the_syncnet_hears_a_stranger(scores):
    truth, frozen = scores
    assert truth["av_offset"] == 0
    assert truth["lse_c"] > 2 * frozen["lse_c"]
    assert truth["lse_d"] < frozen["lse_d"]
