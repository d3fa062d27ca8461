"""Names: which video, sound and text belong to a reference."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from lipbench.evaluation import pairing


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
        else:
            path.write_bytes(b"x")
    return root


def test_videos_are_files_and_folders_of_pictures_with_and_without_speakers(tmp_path):
    names = ["a.mp4", "b.AVI", "c/0001.png", "s1/a.mpg", "s1/d/0001.png", "s1/d/audio.wav", "s1/notes.txt", ".x.mp4"]
    root = touch(tmp_path / "in", *names, "s2/deep/deeper/e.mp4")
    found = pairing.find(root)
    assert set(found) == {("", "a"), ("", "b"), ("", "c"), ("s1", "a"), ("s1", "d")}
    assert found["s1", "d"] == root / "s1" / "d"


def test_no_videos(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        pairing.find(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"no videos in .*found notes\.txt"):
        pairing.find(touch(tmp_path / "in", "notes.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="found nothing"):
        pairing.find(tmp_path / "empty")


def test_two_videos_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.avi and a\.mp4 in .* have one name"):
        pairing.find(touch(tmp_path, "a.mp4", "a.avi"))


def test_speakers_matter_where_both_sides_have_them():
    wanted = [("s1", "a"), ("s2", "b"), ("", "c")]
    assert pairing.match({("s1", "a"), ("s1", "b"), ("s9", "c")}, wanted, "video") == {
        ("s1", "a"): ("s1", "a"),
        ("", "c"): ("s9", "c"),
    }
    assert pairing.match({("", "a"), ("", "b")}, wanted, "video") == {("s1", "a"): ("", "a"), ("s2", "b"): ("", "b")}
    both = {("", "a"), ("s1", "a")}
    assert pairing.match(both, [("s1", "a")], "video") == {("s1", "a"): ("s1", "a")}  # the fuller name wins


def test_a_name_that_leaves_a_choice_is_refused():
    with pytest.raises(ValueError, match="sound a could belong to s1/a and to s2/a: put it into its speaker's folder"):
        pairing.match({("", "a")}, [("s1", "a"), ("s2", "a")], "sound")
    with pytest.raises(ValueError, match="videos s1/a and s2/a could both belong to a"):
        pairing.match([("s1", "a"), ("s2", "a")], [("", "a")], "video")


def test_texts_of_a_csv_file(tmp_path):
    path = tmp_path / "said.csv"
    path.write_text('\ufeffclip, text\ns1/a.mp4,"Bin blue, now."\ngrid/s2/b,\nc\n', encoding="utf-8")
    assert pairing.find_texts(path) == {("s1", "a"): "Bin blue, now.", ("s2", "b"): "", ("", "c"): ""}
    assert pairing.find_texts({"s1/a": "x"}) == {("s1", "a"): "x"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("name,words\na,b\n", "has the columns name, words; expected clip and text"),
        ("clip,text\na,b\na,c\n", "has the clip a twice"),
        ("", "is no CSV file"),
    ],
)
def test_a_csv_file_that_cannot_be_used(tmp_path, content, expected):
    (tmp_path / "said.csv").write_text(content)
    with pytest.raises(ValueError, match=expected):
        pairing.find_texts(tmp_path / "said.csv")
    (tmp_path / "latin.csv").write_bytes(b"clip,text\na,caf\xe9\n")
    with pytest.raises(ValueError, match="no CSV file in UTF-8"):
        pairing.find_texts(tmp_path / "latin.csv")


def test_texts_of_a_folder_and_word_times_first(tmp_path):
    root = touch(tmp_path / "in", "s1/a.txt", "s1/a.align", "s1/b.txt")
    assert pairing.find_texts(root) == {("s1", "a"): root / "s1/a.align", ("s1", "b"): root / "s1/b.txt"}
    with pytest.raises(FileNotFoundError, match="no texts in"):
        pairing.find_texts(touch(tmp_path / "other", "a.wav"))
    with pytest.raises(FileNotFoundError, match="no texts at"):
        pairing.find_texts(tmp_path / "none.csv")


def test_jobs_get_their_sounds(tmp_path):
    jobs = [pairing.Job("s1/a", "s1", None, tmp_path), pairing.Job("s1/b", "s1", None, tmp_path)]
    sounds = pairing.find_sounds(touch(tmp_path / "sound", "a.wav"))
    assert [job.sound for job in pairing.with_audio(jobs, "sound", sounds)] == [tmp_path / "sound" / "a.wav", None]
    with pytest.raises(ValueError, match="no sound has the name of a clip: z beside s1/a, s1/b"):
        pairing.with_audio(jobs, "sound", {("", "z"): tmp_path})


@pytest.mark.parametrize("there", ["NFC", "NFD"])
def test_composed_and_decomposed_names_are_one(tmp_path, there):
    other = {"NFC": "NFD", "NFD": "NFC"}[there]
    name, speaker = "M\u00fcller 1", "s\u00e9"
    made = touch(tmp_path / "made", unicodedata.normalize(there, f"{speaker}/{name}.mp4"))
    true = touch(tmp_path / "true", unicodedata.normalize(other, f"{speaker}/{name}.mp4"))
    sounds = touch(tmp_path / "sound", unicodedata.normalize(there, f"{name}.wav"))
    found = pairing.find(made)
    jobs, _ = pairing.match_videos(true, found)
    assert [(job.clip_id, job.generated) for job in jobs] == [(f"{speaker}/{name}", found[speaker, name])]
    assert pairing.unmatched(found, jobs) == []
    heard = pairing.with_audio(jobs, "sound", pairing.find_sounds(sounds))
    said = pairing.with_audio(jobs, "said", pairing.find_texts({unicodedata.normalize(there, name): "bin"}))
    assert heard[0].sound is not None
    assert said[0].said == "bin"


def test_one_name_in_two_forms_is_there_twice(tmp_path):
    forms = [unicodedata.normalize(form, "M\u00fcller") for form in ("NFC", "NFD")]
    with pytest.raises(ValueError, match="have one name; keep one of them"):
        pairing.find(touch(tmp_path, *(f"{form}.mp4" for form in forms)))
    with pytest.raises(ValueError, match="2 texts are given for 1 names"):
        pairing.find_texts(dict.fromkeys(forms, "bin"))


def test_names_that_do_not_meet(tmp_path):
    reference = touch(tmp_path / "true", "a.mp4", "b.mp4")
    made = {("", "a_generated"): tmp_path}
    jobs, _ = pairing.match_videos(reference, made)
    with pytest.raises(ValueError, match="no generated video has the name of a reference: a_generated beside a, b"):
        pairing.expected(jobs, made, None, False)
    made = {("", "a"): tmp_path / "a.mp4"}
    jobs, _ = pairing.match_videos(reference, made)
    assert [job.clip_id for job in pairing.expected(jobs, made, None, False)] == ["a", "b"]
    assert [job.clip_id for job in pairing.expected(jobs, made, None, True)] == ["a"]
    with pytest.raises(ValueError, match="1 of the 2 test clips of grid/s1 have no generated video: b"):
        pairing.expected(jobs, made, "grid/s1", False)
