"""A text in, a talking face with sound out: both by the same durations, whoever decides these."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import checkpoint

import foreign
from lipbench import cli
from lipbench.media import audio, geometry, landmarks, text, video

SENTENCE = "bin blue at f two now"
IDS = np.array(text.encode(text.symbols(SENTENCE.split())))
SOURCE = Path(__file__).with_name("talkers.py").read_text("utf-8")
KINDS = ("Lips", "Face", "Speech")


class Talkers(NamedTuple):
    """Checkpoints of the toys."""

    lips: Path
    """Takes durations, or decides them."""
    told: Path
    """Takes durations only."""
    own: Path
    """Decides them."""
    hushed: Path
    """Decides them and does not say which."""
    face: Path
    posed: Path
    speech: Path
    single: Path
    """Of one speaker."""
    late: Path
    """Speaks a tenth of a second too long."""
    hasty: Path
    """Gives no token any time."""
    home: Path


@pytest.fixture
def talkers(world, tmp_path, monkeypatch):
    """The toys, installed as a package, and their checkpoints."""
    monkeypatch.setenv("LIPBENCH_HOME", str(world.home))
    points = {"lipbench.models": {f"toy{kind.lower()}": f"toytalkers.models:{kind}" for kind in KINDS}}
    files = {"toytalkers/__init__.py": "", "toytalkers/models.py": SOURCE}
    foreign.install(tmp_path / "package", monkeypatch, files, points, "toytalkers")
    from toytalkers.models import Face, Lips, Speech

    models = {
        "lips": Lips(),
        "told": Lips(("given",)),
        "own": Lips(("free", "length")),
        "hushed": Lips(("free",), told=False),
        "face": Face(),
        "posed": Face(posed=True),
        "speech": Speech(),
        "single": Speech(("anna",)),
        "late": Speech(late=0.1),
        "hasty": Speech(quick=0),
    }
    monkeypatch.chdir(tmp_path)
    return Talkers(
        **{name: checkpoint(model, tmp_path / f"{name}.ckpt") for name, model in models.items()}, home=tmp_path
    )


@pytest.fixture(scope="module")
def me(world, tmp_path_factory):
    """First frame of a rendered clip, as a PNG file."""
    clip = min((world.home / "corpora" / "rendered" / "video").rglob("*.mpg"))
    path = tmp_path_factory.mktemp("me") / "me.png"
    Image.fromarray(video.read_video(clip).frames[0]).save(path)
    return path


def typed(**options):
    words = {key if key == "ckpt_path" else key.replace("_", "-"): value for key, value in options.items()}
    return cli.main(["generate", *(str(word) for key, value in words.items() for word in (f"--{key}", value))])


def shown_tokens(path):
    """(N,) the token of every frame, by the brightness in the middle of the mouth less that beside it.

    The first frame shows silence: what the colors of the skin add to that difference is known from it.
    """
    frames = np.stack(video.read_video(path).frames)  # (N, h, w, 3)
    aligned = geometry.similarity(landmarks.track([frames[0]], landmarks.load("dlib")).points)
    top, left, _, right = geometry.box("mouth")
    row, middle, beside = top + 40, (left + right) // 2, left + 46
    canonical = geometry.warp(list(frames), np.repeat(aligned, len(frames), 0)).astype(float)  # (N, 352, 320, 3)
    at = [canonical[:, row - 2 : row + 2, x - 2 : x + 2].mean((1, 2, 3)) for x in (middle, beside)]  # (N,) each
    contrast = at[0] - at[1]
    return np.rint(IDS[0] + (contrast - contrast[0]) / 255 * 90).astype(int)


def heard_tokens(path, louder=1.0):
    """(N,) the token of every frame by the sample in its middle, and the seconds of the sound."""
    samples, rate = audio.read_audio(path)
    count = round(len(samples) / rate * 25)
    middles = ((np.arange(count) + 0.5) * rate / 25).astype(int)
    return np.rint(samples[middles] * 60 / louder).astype(int), len(samples) / rate


PREDICTED = np.where(IDS == 3, 5, 1 + IDS % 3)
CASES = {
    "the speech model decides": (("lips",), PREDICTED),
    "durations are told": (("told",), PREDICTED),
    "the lips decide": (("own",), np.full(len(IDS), 3)),
    "a face": (("lips", "face"), PREDICTED),
    "a face of lips that decide": (("own", "face"), np.full(len(IDS), 3)),
    "a face with poses": (("told", "posed"), PREDICTED),
    "a face with poses, of lips that decide": (("own", "posed"), np.full(len(IDS), 3)),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_frames_and_sound_of_the_file_say_the_same_token(talkers, me, case, capsys):
    (lips, *face), durations = CASES[case]
    more = {"face_ckpt": getattr(talkers, *face)} if face else {}
    options = {"speech_ckpt": talkers.speech, "text": SENTENCE, "image": me, "out": "out.avi", **more}
    assert typed(ckpt_path=getattr(talkers, lips), **options) == 0
    expected = np.repeat(IDS, durations)
    heard, seconds = heard_tokens("out.avi")
    shown = shown_tokens("out.avi")
    assert len(shown) == len(expected)
    assert abs(seconds - len(shown) / 25) <= 1e-3
    assert heard.tolist() == expected.tolist()
    assert shown.tolist() == expected.tolist()
    assert capsys.readouterr().err == "speaks as anna, the first of 2 speakers; --speaker changes that\n"
    if face:  # of a whole face, only the lower half is put back
        before, after = np.asarray(Image.open(me)), np.stack(video.read_video("out.avi").frames)
        changed = (after != before).any(axis=(0, 2, 3))  # (h,)
        eyes = landmarks.track([before], landmarks.load("dlib")).points[0, 36:48, 1]
        assert not changed[: int(eyes.max())].any()
        assert changed.any()


@pytest.mark.parametrize("suffix", [".mp4", ".mpg", ".avi"])
def test_the_voice_of_espeak(talkers, world, me, suffix):
    """The outer two `|` are silent, what is between them is loud; wave and video are equally long, to a frame."""
    out = Path(f"out{suffix}")
    assert typed(ckpt_path=world.checkpoint, voice="espeak:en-us+f2", text=SENTENCE, image=me, out=out) == 0
    frames = video.read_video(out).frames
    samples, rate = audio.read_audio(out)
    assert abs(len(samples) / rate - len(frames) / 25) <= 0.04
    from lipbench.generation import speech

    made = speech.espeak(SENTENCE, "en-us+f2")
    assert len(frames) == int(made.durations.sum())
    first, last = int(made.durations[0]), len(frames) - int(made.durations[-1])
    loud = np.array([np.square(part).mean() for part in np.array_split(samples, len(frames))])  # (N,)
    assert loud[first:last].mean() > 100 * loud[: first - 1].mean()
    assert loud[first:last].mean() > 100 * loud[last + 1 :].mean()


def test_lips_move_by_the_times_of_espeak(talkers, me):
    from lipbench.generation import speech

    out = {"text": SENTENCE, "image": me, "out": "out.avi"}
    for more in ({}, {"face_ckpt": talkers.face}):
        assert typed(ckpt_path=talkers.lips, voice="espeak", **more, **out) == 0
        expected = np.repeat(IDS, speech.espeak(SENTENCE).durations)
        shown = shown_tokens("out.avi")
        assert len(shown) == len(expected)
        assert shown.tolist() == expected.tolist()


def test_speakers_are_chosen_by_name_and_number(talkers, me, capsys):
    out = {"ckpt_path": talkers.told, "text": "bin", "image": me, "out": "out.avi"}
    for speaker in ("otto", 1):
        assert typed(speech_ckpt=talkers.speech, speaker=speaker, **out) == 0
        assert set(heard_tokens("out.avi", louder=0.5)[0]) == set(text.encode("|bin"))
    assert typed(speech_ckpt=talkers.single, **out) == 0
    assert capsys.readouterr().err == ""


def test_a_face_that_needs_no_voice_stays_silent(talkers, me):
    assert typed(ckpt_path=talkers.own, face_ckpt=talkers.posed, text="bin", image=me, out="out.avi") == 0
    assert len(video.read_video("out.avi").frames) == 15
    with pytest.raises(ValueError, match="no sound"):
        audio.read_audio("out.avi")


def test_a_video_is_dubbed_with_a_voice(talkers, world):
    clip = min((world.home / "corpora" / "rendered" / "video").rglob("*.mpg"))
    for more in ({}, {"face_ckpt": talkers.posed}):
        assert typed(ckpt_path=talkers.lips, voice="espeak", text="bin", video=clip, out="out.avi", **more) == 0
        frames, (samples, rate) = video.read_video("out.avi").frames, audio.read_audio("out.avi")
        assert abs(len(samples) / rate - len(frames) / 25) <= 1e-3
        assert np.abs(samples).max() > 0.1


def test_heat_maps_of_a_voice_show_its_own_frames(talkers, world, me, capsys):
    options = {"text": "bin", "image": me, "out": "out.avi", "heatmap": "heat.png"}
    assert typed(ckpt_path=world.checkpoint, voice="espeak", **options) == 0
    from lipbench.generation import speech

    last = int(speech.espeak("bin").durations.sum()) - 1
    assert f"heat.png: frames {round(last / 7)}, " in capsys.readouterr().out


def test_a_text_longer_than_the_sentences_of_the_corpus_is_told(talkers, world, me, capsys):
    options = {"ckpt_path": world.checkpoint, "voice": "espeak", "image": me, "out": "out.avi"}
    longer = "the text has 7 words; no sentence of rendered, which the model was trained on, has more than 6"
    stored = torch.load(world.checkpoint, weights_only=True)["lipbench_data"]["words"]
    assert typed(text=" ".join(stored[:7]), **options) == 0
    assert longer in capsys.readouterr().err
    assert typed(text=" ".join(stored[:6]), **options) == 0
    assert capsys.readouterr().err == ""


def test_words_that_the_speech_model_never_met_are_told(talkers, world, me, capsys):
    stored = torch.load(talkers.single, weights_only=True)
    stored["lipbench_data"] = {"name": "grid", "protocol": "grid/s1", "words": ["bin"]}
    torch.save(stored, talkers.single)
    options = {"text": "blue", "image": me, "out": "out.avi"}
    assert typed(ckpt_path=talkers.lips, speech_ckpt=talkers.single, **options) == 0
    assert "trained on grid/s1, whose 1 words do not include 'blue'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"text": "bin 4 now"}, "holds '4'; expected letters and spaces only; write numbers as words"),
        ({"text": "Größe 你"}, "expected letters and spaces only"),
        ({"text": ""}, "the text is empty; expected at least one word"),
        ({"text": None}, 'driven by text: give --text "bin blue at f two now"'),
        ({"image": "grey.png"}, "no face found in grey.png"),
        ({"voice": "espeak", "speech_ckpt": "speech.ckpt"}, "Give --voice or --speech-ckpt; found both"),
        ({"ckpt_path": "told.ckpt", "voice": None}, "give --voice espeak or --speech-ckpt FILE"),
        ({"ckpt_path": "own.ckpt"}, "decides itself how long each letter lasts, and so does --voice"),
        ({"voice": "festival"}, "--voice 'festival': expected espeak or espeak:NAME"),
        ({"voice": "espeak:"}, "--voice 'espeak:': expected espeak or espeak:NAME"),
        ({"voice": "espeak:martian"}, "eSpeak NG has no voice 'martian'"),
        ({"voice": "espeak:en+f99"}, "eSpeak NG has no variant 'f99'"),
        ({"speaker": "anna"}, "--speaker belongs to --speech-ckpt"),
        ({"voice": None, "speech_ckpt": "speech.ckpt", "speaker": "eve"}, "the speech model has anna, otto (0 to 1)"),
        ({"voice": None, "speech_ckpt": "speech.ckpt", "speaker": "2"}, "the speech model has anna, otto (0 to 1)"),
        ({"voice": None, "speech_ckpt": "single.ckpt", "speaker": "anna"}, "Speech has one voice; leave --speaker out"),
        ({"voice": None, "speech_ckpt": "lips.ckpt"}, "lips.ckpt holds Lips, which speaks no text"),
        ({"voice": None, "speech_ckpt": "none.ckpt"}, "no checkpoint at none.ckpt"),
        ({"voice": None, "speech_ckpt": "late.ckpt"}, "s of audio for durations of"),
        ({"voice": None, "speech_ckpt": "hasty.ckpt"}, "the speech model gives this text no time at all"),
        (
            {"voice": None, "ckpt_path": "hushed.ckpt", "speech_ckpt": "speech.ckpt"},
            "Lips.generate returned no durations with 15 frames",
        ),
        ({"face_ckpt": "lips.ckpt"}, "lips.ckpt holds Lips, which makes no faces of lips; expected a model such as"),
        ({"face_ckpt": "none.ckpt"}, "no checkpoint at none.ckpt"),
        ({"ckpt_path": "face.ckpt"}, "makes faces of lips: give it as --face-ckpt"),
        ({"ckpt_path": "speech.ckpt"}, "generates no video: give it as --speech-ckpt"),
        ({"out": "talk.wav"}, "--out talk.wav: expected a name that ends in .mp4, .mpg, .avi"),
    ],
)
def test_wrong_words(talkers, me, capsys, change, expected):
    Image.fromarray(np.full((200, 200, 3), 128, np.uint8)).save("grey.png")
    given = {"ckpt_path": "lips.ckpt", "voice": "espeak", "text": "bin", "image": me, "out": "talk.mp4"} | change
    code = typed(**{key: value for key, value in given.items() if value is not None})
    told = capsys.readouterr().err
    assert code in (1, 2)
    assert expected in told
    assert "Traceback" not in told
    assert not Path(given["out"]).exists()


def test_a_model_driven_by_sound_takes_no_voice(talkers, me, capsys):
    from lipbench.models.lipgan import LipGAN

    small = LipGAN(24, "mel", (4, 4, 4, 8), (1, 1, 0), (4, 4, 4, 8), (1, 1, 1, 1), 1, 8, adversarial_weight=0)
    path = checkpoint(small, Path("hearing.ckpt"))
    assert typed(ckpt_path=path, image=me, voice="espeak", face_ckpt="face.ckpt", out="talk.mp4") == 2
    assert "driven by sound: leave --voice and --face-ckpt out, give --audio FILE" in capsys.readouterr().err


def test_of_several_faces_the_largest_speaks_and_that_is_told(talkers, me, capsys):
    picture = np.asarray(Image.open(me))
    Image.fromarray(np.concatenate([picture, picture], axis=1)).save("two.png")
    assert typed(ckpt_path="lips.ckpt", voice="espeak", text="bin", image="two.png", out="out.avi") == 0
    assert "two.png shows face 0 at x" in capsys.readouterr().out
