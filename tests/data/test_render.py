"""The rendered corpus: its truth is true, its files are GRID's, and a stock landmark detector agrees with it."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import dlib
import numpy as np
import pytest

from lipbench.media import alignment, audio, landmarks, video
from lipbench.synthetic import looks, visemes, voice
from lipbench.synthetic.camera import Camera, Pose
from lipbench.synthetic.corpus import (
    FPS,
    FRAMES,
    GRAMMAR,
    SAMPLE_RATE,
    opening,
    render,
    sentence_ids,
    word_segments,
    write_corpus,
)
from lipbench.synthetic.face import Eyes, Face
from lipbench.synthetic.sheet import contact_sheet

TIMES = (np.arange(FRAMES) + 0.5) / FPS


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    write_corpus(folder, speakers=4, clips=1, seed=5, workers=2, progress=False)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def clips(folder: Path) -> list[tuple[Path, Path, Path]]:
    return [
        (
            path,
            folder / "alignments" / path.parent.name / f"{path.stem}.align",
            folder / "exact" / path.parent.name / f"{path.stem}.npz",
        )
        for path in sorted(folder.glob("video/s*/*.mpg"))
    ]


def test_ids_spell_sentences_and_no_two_speakers_share_one() -> None:
    assert word_segments("bbaf2n") == ["bin", "blue", "at", "f", "two", "now"]
    ids = [sentence_ids(speaker, 1000, 0) for speaker in range(64)]
    assert len({i for own in ids for i in own}) == 64_000 == np.prod([len(column) for column in GRAMMAR])
    assert sentence_ids(3, 5, 0) == ids[3][:5]  # more clips change none
    assert sentence_ids(3, 5, 1) != ids[3][:5]
    with pytest.raises(ValueError, match="spells no GRID sentence"):
        word_segments("bbaw2n")  # w is not among GRID's letters


def test_layout_is_that_of_grid(root: Path) -> None:
    found = clips(root)
    assert [path.parent.name for path, _, _ in found] == ["s1", "s2", "s3", "s4"]
    for path, align, exact in found:
        words = alignment.read_align(align)
        assert [w.word for w in words] == ["sil", *word_segments(path.stem), "sil"]
        assert words[0].start == 0
        assert words[-1].end == pytest.approx(2.98)
        assert all(a.end == b.start and a.end > a.start for a, b in itertools.pairwise(words))
        assert words[0].end > 0.15
        assert words[-1].end - words[-1].start > 0.15
        clip = video.read_video(path)
        assert (len(clip.frames), clip.frames[0].shape, clip.fps) == (75, (288, 360, 3), 25.0)
        samples, rate = audio.read_audio(path)
        assert rate == 44_100
        assert abs(len(samples) / rate - 3.0) < 0.05
        truth = np.load(exact)
        assert truth["landmarks"].shape == (75, 68, 2)
        assert truth["landmarks"].dtype == np.float32
        assert np.allclose(truth["opening"], opening(truth["landmarks"]), atol=1e-4)
        phones = truth["phones"]
        assert phones["start"][0] == 0
        assert phones["end"][-1] == 3.0
        assert np.array_equal(phones["end"][:-1], phones["start"][1:])


def test_silences_differ_between_clips(root: Path) -> None:
    starts = [alignment.read_align(align)[0].end for _, align, _ in clips(root)]
    assert np.std(starts) > 0.03


def test_sound_starts_and_ends_where_the_alignment_says(root: Path) -> None:
    for path, align, _ in clips(root):
        samples, rate = audio.read_audio(path)
        words = alignment.read_align(align)
        loud = np.flatnonzero(np.abs(samples) > 0.02) / rate
        assert np.abs(samples).max() > 0.4
        # A first stop is silent for some 50 ms before its burst; a last vowel fades.
        assert words[0].end - 0.02 < loud[0] < words[0].end + 0.09
        assert words[-1].start - 0.12 < loud[-1] < words[-1].start + 0.03


def test_truth_has_ibug_order(root: Path) -> None:
    for _, _, exact in clips(root):
        p = np.load(exact)["landmarks"]
        assert np.isfinite(p).all()
        assert p.min() > 0
        assert (p < (360, 288)).all()
        # Jaw (its sides are nearly upright), brows, mouth run from the left of the picture to the right.
        assert (np.diff(p[:, 3:14, 0], axis=1) > 0).all()
        assert (np.diff(p[:, 0:9, 1], axis=1) > 0).all()
        assert (np.diff(p[:, 8:17, 1], axis=1) < 0).all()
        assert (np.diff(p[:, 17:27, 0], axis=1) > 0).all()
        assert (np.diff(p[:, 48:55, 0], axis=1) > 0).all()
        assert (np.diff(p[:, 54:60, 0], axis=1) < 0).all()
        assert (np.diff(p[:, 60:65, 0], axis=1) > 0).all()
        assert (np.diff(p[:, 64:68, 0], axis=1) < 0).all()
        column = p[:, [27, 28, 29, 30, 33, 51, 62, 66, 57, 8], 1]  # down the middle of the face
        assert (np.diff(column, axis=1) >= -1e-3).all()
        assert (p[:, 37:39, 1] <= p[:, [41, 40], 1] + 0.5).all()  # upper lids above lower lids


def test_lips_close_for_bilabials_and_open_for_open_vowels(root: Path) -> None:
    shut, wide = [], []
    for _, _, exact in clips(root):
        truth = np.load(exact)
        for start, end, label in truth["phones"]:
            inside = (start <= TIMES) & (end >= TIMES)
            if visemes.is_closed(label):
                shut += list(truth["opening"][inside])
            elif label[:1] in ("a", "æ", "ɑ") and inside.any():
                wide.append(truth["opening"][inside].max())
    assert len(shut) >= 3
    assert max(shut) < 0.05
    assert len(wide) >= 2
    assert min(wide) > 4.0


def test_every_closure_of_the_grammar_is_seen_by_a_camera() -> None:
    speech = voice.speak(["place", "blue", "by", "m", "seven", "please"], voice.Voice("en+f1", 140, 50, 50))
    times = np.arange(0, speech.phones[-1].end, 1 / FPS)
    mouth = visemes.track([visemes.Phone(0, speech.phones[0].start, ""), *speech.phones], times)
    closed = [p for p in speech.phones if visemes.is_closed(p.label)]
    assert [p.label for p in closed] == ["p", "b", "b", "m", "p"]
    for phone in closed:
        nearest = np.abs(times - 0.5 * (phone.start + phone.end)).argmin()
        assert mouth[nearest, 0] < 0.3


def test_shapes_follow_the_sounds() -> None:
    def middle(label: str) -> visemes.Shape:
        phones = [visemes.Phone(0, 0.5, ""), visemes.Phone(0.5, 0.8, label), visemes.Phone(0.8, 1.3, "")]
        return visemes.Shape(*visemes.track(phones, np.array([0.65]))[0])

    assert middle("aː").opening > middle("ɪ").opening > middle("s").opening > middle("m").opening == 0
    assert middle("uː").spread < -7 < 3 < middle("iː").spread
    assert middle("v").tuck > 0.7 > 0.1 > middle("ɪ").tuck
    assert visemes.parts("aʊ") == ("a", "ʊ")
    assert visemes.parts("") == ("",)
    with pytest.raises(ValueError, match="no viseme"):
        visemes.parts("ɓ")


def test_every_voice_speaks_the_whole_grammar() -> None:
    words = [word for column in GRAMMAR for word in column.values()]
    for k in range(12):
        speech = voice.speak(words, looks.make(k, 0).voice)
        assert len(speech.words) == len(words)
        for phone in speech.phones:
            visemes.parts(phone.label)


def test_speech_depends_on_nothing_said_before() -> None:
    one, other = voice.Voice("en+m1", 150, 50, 50), voice.Voice("en-us+f4", 140, 60, 50)
    first = voice.speak(["lay", "red"], one)
    voice.speak(["set", "white", "soon"], other)
    again = voice.speak(["lay", "red"], one)
    assert np.array_equal(first.samples, again.samples)
    assert first.phones == again.phones


def test_no_voice_is_random() -> None:
    code = (
        "import hashlib, sys; from lipbench.synthetic.voice import Voice, speak;"
        "spoken = (speak(['set', 'white'], Voice(name, 140, 50, 50)).samples for name in sys.argv[1:]);"
        "print(*(hashlib.sha256(samples).hexdigest() for samples in spoken))"
    )
    command = [sys.executable, "-c", code, *(looks.make(k, 0).voice.name for k in range(12))]
    said = {subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(3)}
    assert len(said) == 1
    assert len(said.pop().split()) == 12


def test_letter_a_is_spoken_as_its_name() -> None:
    speech = voice.speak(["bin", "red", "at", "a", "six", "now"], voice.Voice("en+m1", 150, 50, 50))
    start, end = speech.words[3]
    assert [p.label for p in speech.phones if start <= p.start < end] == ["eɪ"]


def test_unknown_voice_is_named() -> None:
    with pytest.raises(ValueError, match="no voice 'xx-nowhere'"):
        voice.speak(["now"], voice.Voice("xx-nowhere", 150, 50, 50))


def test_files_do_not_depend_on_workers_and_are_resumed(root: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path, speakers=2, clips=1, seed=5, workers=1, progress=False)
    alone = digests(tmp_path)
    assert len(alone) == 7
    assert alone.items() <= digests(root).items()

    gone, kept = clips(tmp_path)
    for path in gone[:2]:
        path.unlink()
    before = kept[0].stat().st_mtime_ns
    write_corpus(tmp_path, speakers=2, clips=1, seed=5, workers=1, progress=False)
    assert digests(tmp_path) == alone
    assert kept[0].stat().st_mtime_ns == before


def test_other_seed_in_the_same_folder_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="choose another folder"):
        write_corpus(root, speakers=1, clips=1, seed=6, progress=False)
    with pytest.raises(ValueError, match="1 to 64 speakers"):
        write_corpus(root, speakers=65, clips=1, seed=5, progress=False)


def test_speakers_and_seeds_differ() -> None:
    people = [looks.make(k, 0) for k in range(20)]
    assert len({p.voice.name for p in people[:8]}) == 8
    assert len({p.skin for p in people}) == 20
    assert len({p.scale for p in people}) == 20
    assert len({p.style for p in people[:8]}) >= 6
    assert len({p.beard for p in people[:8]}) == 4
    assert looks.make(0, 1) != people[0] == looks.make(0, 0)


def test_landmarks_move_with_the_head() -> None:
    face = Face(looks.make(0, 0), 1)
    camera = Camera(face, 1)
    rest = face.landmarks(visemes.Shape(0, 0, 0, 0, 0, 0, 0), Eyes(0, 0, 0, 0))
    pose = Pose(180.0, 150.0, 0.6, 0.0, 0.0, 0.0)
    at = camera.project(rest, pose)
    assert np.allclose(at, (rest - (128, 130)) * 0.6 + (180, 150))
    turned = camera.project(rest, pose._replace(yaw=0.1)) - at
    assert turned[30, 0] > turned[36, 0] > 2
    assert abs(turned[:, 1]).max() < 1e-9
    blink = face.landmarks(visemes.Shape(0, 0, 0, 0, 0, 0, 0), Eyes(1, 0, 0, 0))
    assert np.allclose(blink[[37, 38, 43, 44], 1], blink[[41, 40, 47, 46], 1], atol=1.2)
    opened = face.landmarks(visemes.Shape(20, 0, 15, 0, 0, 0, 0), Eyes(0, 0, 0, 0))
    assert opened[8, 1] - rest[8, 1] == pytest.approx(15)
    assert np.allclose(opened[27:36], rest[27:36])
    assert opening(opened) == pytest.approx(20, abs=1.5)
    assert opening(rest) == 0


def test_stock_dlib_finds_the_face_and_measures_its_lips() -> None:
    """Bars of the corpus: found in 98 % of frames, opening correlated at 0.8 (here on some clips of every style)."""
    predictor = dlib.shape_predictor(str(landmarks._predictor_file()))
    detector = dlib.get_frontal_face_detector()
    found, frames, correlations, measured, exact = 0, 0, [], [], []
    for speaker in range(8):
        clip = render(speaker, sentence_ids(speaker, 1, 0)[0], 0)
        own, box = [], None
        for k, frame in enumerate(clip.frames):
            if k % 15 == 0:
                boxes = detector(frame, 0)
                frames, found = frames + 1, found + bool(boxes)
                box = max(boxes, key=lambda b: b.area()) if boxes else box
            points = np.array([(p.x, p.y) for p in predictor(frame, box).parts()], float)
            own.append(opening(points))
        correlations.append(np.corrcoef(own, clip.truth.opening)[0, 1])
        measured += own
        exact += list(clip.truth.opening)
    assert found / frames >= 0.98
    assert np.mean(correlations) >= 0.8
    assert np.corrcoef(measured, exact)[0, 1] >= 0.8


def test_clip_is_loud_enough_and_noisy_enough_to_be_a_recording() -> None:
    clip = render(1, sentence_ids(1, 1, 0)[0], 0)
    assert clip.samples.shape == (3 * SAMPLE_RATE,)
    assert 0.45 < np.abs(clip.samples).max() <= 0.85
    still = clip.frames[:, 4:24, 4:40].astype(float)  # the wall
    assert 0.5 < still.std(0).mean() < 4.0


def test_contact_sheet(root: Path) -> None:
    sheet = contact_sheet(root, speakers=4)
    assert sheet.shape == (2 * 176, 8 * 143, 3)
    assert sheet.std() > 30
    with pytest.raises(FileNotFoundError, match="speaker s5"):
        contact_sheet(root, speakers=6)
