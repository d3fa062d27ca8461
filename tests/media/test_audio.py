import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from lipbench.media import alignment, audio, video


def tone(hertz: float, seconds: float, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def pitch(samples: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples))


def test_stereo_is_averaged(tmp_path):
    left, right = tone(440, 0.5, 22050), np.full(11025, 0.25, np.float32)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(22050)
        file.writeframes((np.stack([left, right], 1) * 32767).astype("<i2").tobytes())
    samples, rate = audio.read_audio(tmp_path / "a.wav")
    assert (rate, samples.shape, samples.dtype) == (22050, (11025,), np.float32)
    assert np.abs(samples - (left + right) / 2).max() < 1e-4


@pytest.mark.parametrize("suffix", [".mp4", ".mpg", ".avi"])
@pytest.mark.parametrize("rate", [16000, 44100, 11111])
def test_sound_keeps_its_time_through_a_video_file(tmp_path, suffix, rate):
    sound = np.zeros(2 * rate, np.float32)
    sound[rate : rate + rate // 50] = tone(1000, 0.02, rate)[: rate // 50]  # a beep of 20 ms at 1 s
    path = tmp_path / f"clip{suffix}"
    video.write_video(path, np.zeros((50, 32, 32, 3), np.uint8), 25, sound, rate)
    samples, have = audio.read_audio(path)
    loud = np.flatnonzero(np.abs(samples) > 0.2) / have
    assert loud[0] == pytest.approx(1.0, abs=0.005)
    assert loud[-1] == pytest.approx(1.02, abs=0.005)
    assert len(samples) / have == pytest.approx(2.0, abs=0.04)  # one frame


def test_sound_is_cut_or_filled_to_the_picture(tmp_path):
    for seconds in (0.2, 3.0):
        video.write_video(tmp_path / "a.avi", np.zeros((25, 32, 32, 3), np.uint8), 25, tone(300, seconds, 8000), 8000)
        samples, _ = audio.read_audio(tmp_path / "a.avi")
        assert len(samples) == 8000
        assert (np.abs(samples[-1000:]).max() > 0.4) == (seconds == 3.0)


@pytest.mark.parametrize("late", [Fraction(1, 5), Fraction(-1, 5)])
def test_streams_that_start_apart_are_aligned(tmp_path, late):
    rate, path = 8000, tmp_path / "apart.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("mpeg4", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for k in range(25):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            picture.pts, picture.time_base = k + 10, Fraction(1, 25)  # from 0.4 s on
            container.mux(pictures.encode(picture))
        container.mux(pictures.encode(None))
        click = np.zeros((1, rate), np.int16)
        click[0, rate // 2] = 20000
        frame = av.AudioFrame.from_ndarray(click, format="s16", layout="mono")
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = int((Fraction(2, 5) + late) * rate)
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    samples, _ = audio.read_audio(path)
    assert np.abs(samples).argmax() == pytest.approx((0.5 + float(late)) * rate, abs=rate * 0.002)


def test_files_without_sound(tmp_path):
    video.write_video(tmp_path / "mute.mp4", np.zeros((5, 32, 32, 3), np.uint8), 25)
    with pytest.raises(ValueError, match=r"^mute\.mp4 has no sound$"):
        audio.read_audio(tmp_path / "mute.mp4")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        audio.read_audio(tmp_path / "empty.wav")
    with pytest.raises(FileNotFoundError, match="no such file"):
        audio.read_audio(tmp_path / "absent.wav")


def test_audio_and_rate_come_together(tmp_path):
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="audio and sample_rate together"):
        video.write_video(tmp_path / "a.mp4", frames, 25, np.zeros(100, np.float32))
    with pytest.raises(ValueError, match=r"shape \(2, 100\); expected \(samples,\), mono"):
        video.write_video(tmp_path / "a.mp4", frames, 25, np.zeros((2, 100), np.float32), 16000)


def test_resampling_keeps_pitch_level_and_time():
    sound = tone(1000, 1.0, 44100)
    out = audio.resample(sound, 44100, 16000)
    assert (out.shape, out.dtype) == ((16000,), np.float32)
    assert pitch(out, 16000) == pytest.approx(1000, abs=2)
    expected = tone(1000, 1.0, 16000)
    assert np.abs(out[200:-200] - expected[200:-200]).max() < 1e-3  # no delay, same level
    assert np.abs(audio.resample(tone(10000, 1.0, 44100), 44100, 16000)[200:-200]).max() < 1e-3  # nothing aliases


def test_resampled_length_is_the_rounded_one():
    for count, have, want in [(131328, 44100, 16000), (1, 44100, 16000), (1001, 16000, 48000), (0, 8000, 16000)]:
        assert len(audio.resample(np.zeros(count, np.float32), have, want)) == round(count * want / have)
    with pytest.raises(ValueError, match="from 0 to 16000"):
        audio.resample(np.zeros(5), 0, 16000)
    with pytest.raises(ValueError, match="mono"):
        audio.resample(np.zeros((2, 5)), 8000, 16000)


def test_frames_cover_samples_without_gap_at_any_rate():
    assert [audio.frame_to_sample(k, 16000, 25) for k in range(3)] == [0, 640, 1280]
    starts = [audio.frame_to_sample(k, 16000, 29.97) for k in range(300)]
    assert set(np.diff(starts)) == {533, 534}
    assert starts[299] == round(299 * 16000 / 29.97)


def test_speech_span_of_made_up_speech():
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.001, 32000).astype(np.float32)
    for start, end in [(0.5, 0.9), (1.0, 1.5)]:
        sound[round(start * 16000) : round(end * 16000)] += rng.normal(0, 0.1, round((end - start) * 16000))
    sound[1600:1616] += 0.9  # a click at 0.1 s
    start, end = audio.speech_span(sound, 16000)
    assert start == pytest.approx(0.5, abs=0.03)
    assert end == pytest.approx(1.5, abs=0.03)


def test_no_speech_in_silence_and_even_noise():
    assert audio.speech_span(np.zeros(16000, np.float32), 16000) is None
    assert audio.speech_span(np.zeros(10, np.float32), 16000) is None
    assert audio.speech_span(np.random.default_rng(0).normal(0, 0.1, 16000), 16000) is None


def test_speech_span_of_real_clips(grid_root):
    errors = []
    for path in sorted((grid_root / "video").glob("s*/*.mpg"))[::4]:
        words = alignment.spoken(
            alignment.read_align(grid_root / "alignments" / path.parent.name / f"{path.stem}.align")
        )
        samples, rate = audio.read_audio(path)
        assert (rate, len(samples)) == (44100, 131328)
        start, end = audio.speech_span(samples, rate)
        errors.append((abs(start - words[0].start), abs(end - words[-1].end)))
    assert len(errors) >= 10
    assert np.mean(errors) < 0.15
