"""Splits: against the published lists, disjoint, and stable."""

import pickle
from pathlib import Path

import pytest

from lipbench.data import protocol as protocols
from lipbench.data.corpus import Corpus
from lipbench.errors import UsageError

GRID = ("grid/seen", "grid/unseen", "grid/s29", "grid/s1")
SIZES = {
    "grid/seen": (24_408, 8_415),
    "grid/unseen": (28_837, 3_986),
    "grid/s29": (31_823, 1_000),
    "grid/s1": (734, 255),
}
SHA256 = {
    "grid/seen": "8061edcecb4d8ec26b7d23f2723f51002f6359ac22a8ff6f0a012ec182e4dd04",
    "grid/unseen": "75646a2afa40493b534da8d39c90e617f54b925392325bcd4a6b4f7136135f5a",
    "grid/s29": "5d28e0122aebdee8f07048cf57d07456771ce14c8d8eb6dc0a860f97ae6f5638",
    "grid/s1": "b931d721c8e7c49b7fb09d871281690421cb43bafd4ca7e5ba878f8f0e5143e9",
}
RENDERED = [f"rendered/s{s}/id{k}" for s in range(1, 9) for k in range(40)]


@pytest.mark.parametrize("name", GRID)
def test_sizes_hashes_and_disjointness(name: str) -> None:
    split = protocols.load(name).split([])
    assert (len(split.train) + len(split.validation), len(split.test)) == SIZES[name]
    parts = [set(split.train), set(split.validation), set(split.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)), "a clip is in two parts"
    assert 0.03 < len(split.validation) / len(split.train) < 0.07
    assert split.sha256 == SHA256[name]


@pytest.mark.parametrize(("name", "lists"), [("grid/seen", "overlap"), ("grid/unseen", "unseen")])
def test_equal_to_the_published_lists(grid_root: Path, name: str, lists: str) -> None:
    split = protocols.load(name).split([])
    for part, ids in (("train", (*split.train, *split.validation)), ("val", split.test)):
        published = (grid_root / "splits" / f"{lists}_{part}.txt").read_text().split()
        assert sorted(ids) == sorted(f"grid/{clip}" for clip in published)


def test_s1_is_the_part_of_seen() -> None:
    seen, s1 = protocols.load("grid/seen").split([]), protocols.load("grid/s1").split([])
    assert s1.test == tuple(clip for clip in seen.test if clip.startswith("grid/s1/"))
    assert s1.validation == tuple(clip for clip in seen.validation if clip.startswith("grid/s1/"))


def test_unseen_speakers_are_not_trained_on() -> None:
    held_out = {"grid/unseen": {"s1", "s2", "s20", "s22"}, "grid/s29": {"s29"}, "rendered/unseen": {"s1", "s2"}}
    for name, held in held_out.items():
        split = protocols.load(name).split(RENDERED)
        assert {clip.split("/")[1] for clip in split.test} == held
        assert not held & {clip.split("/")[1] for clip in (*split.train, *split.validation)}


def test_rendered_sentences_are_held_out_of_every_speaker() -> None:
    protocol = protocols.load("rendered/seen")
    split = protocol.split(RENDERED)
    assert 0.15 < len(split.test) / len(RENDERED) < 0.25
    assert {clip.split("/")[1] for clip in split.test} == {f"s{k}" for k in range(1, 9)}
    fewer = protocol.split(RENDERED[::2])
    assert set(fewer.test) == set(split.test) & set(RENDERED[::2]), "clips change sides when others are missing"
    assert fewer.sha256 != split.sha256


def test_judges_are_trained_on_no_clip_that_they_judge() -> None:
    judges = protocols.load("rendered/judges").split(RENDERED)
    known = {*judges.train, *judges.validation}
    assert len(known) > len(RENDERED) / 2
    for name in ("rendered/seen", "rendered/unseen"):
        assert not known & set(protocols.load(name).split(RENDERED).test)


def test_unknown_protocol_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"known are .*grid/seen, grid/unseen, grid/s29, grid/s1"):
        protocols.load("grid/sen")


def test_protocols_pickle() -> None:
    assert pickle.loads(pickle.dumps(protocols.load("grid/seen"))) is protocols.load("grid/seen")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({}, "the corpus Odd lacks the class attributes name, protocols, default_protocol, license, access: add them"),
        (
            {"name": "odd", "protocols": (), "default_protocol": "odd/x", "license": "", "access": ""},
            r"the corpus Odd has the protocols \(none\); each name must begin with 'odd/', and default_protocol",
        ),
    ],
)
def test_a_corpus_that_lacks_something_is_told(members: dict[str, object], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        type(Corpus)("Odd", (Corpus,), members)
