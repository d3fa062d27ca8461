import struct
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


def clip_with(path, blocks, rate=44100):
    """A Matroska file of black frames from 0 s on, and audio blocks at their own times: (seconds, samples)."""
    with av.open(str(path), "w") as container:
        frames = container.add_stream("mpeg4", rate=25)
        frames.width, frames.height, frames.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=rate, layout="mono")
        for k in range(25):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            container.mux(frames.encode(frame))
        container.mux(frames.encode(None))
        for seconds, samples in blocks:
            block = av.AudioFrame.from_ndarray((samples * 32767).astype(np.int16)[None], format="s16", layout="mono")
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            for packet in sound.encode(block):
                packet.pts = packet.dts = round(seconds / packet.time_base)
                container.mux(packet)
    return path


def click(rate, seconds, at):
    """Silence with one loud sample."""
    samples = np.zeros(round(rate * seconds), np.float32)
    samples[round(rate * at)] = 0.8
    return samples


def clicks(samples, rate):
    return (np.flatnonzero(np.abs(samples) > 0.3) / rate).tolist()


def pieces(rate, start, samples, size=1024):
    """Blocks of one packet each, in a row from `start` seconds on."""
    return [(start + k / rate, samples[k : k + size]) for k in range(0, len(samples), size)]


@pytest.mark.parametrize("hole", [0.03, 0.5])
def test_holes_become_silence(tmp_path, hole):
    first, last = click(44100, 1.0, 0.5), click(44100, 1.0, 0.25)
    path = clip_with(tmp_path / "a.mkv", [*pieces(44100, 0, first), *pieces(44100, 1 + hole, last)])
    samples, rate = audio.read_audio(path)
    assert clicks(samples, rate) == pytest.approx([0.5, 1.25 + hole], abs=0.002)
    assert len(samples) / rate == pytest.approx(2 + hole, abs=0.002)


def placed(blocks, rate=44100):
    """Blocks as a decoder gives them: what muxers refuse to write, cameras and cuts leave all the same."""
    given = [audio._Block(time, rate, samples) for time, samples in blocks]
    return audio._joined(audio._placed(given, "a.mkv"), None)[0]


def test_what_overlaps_is_not_put_behind():
    first, last = click(44100, 1.0, 0.5), click(44100, 1.0, 0.5)
    samples = placed([*pieces(44100, 0, first), *pieces(44100, 0.8, last)])
    assert clicks(samples, 44100) == pytest.approx([0.5, 1.3], abs=0.002)
    assert len(samples) / 44100 == pytest.approx(1.8, abs=0.002)


def test_blocks_without_a_time_follow_the_one_before():
    sound = click(44100, 1.0, 0.5)
    blocks = pieces(44100, 0, sound)
    assert (placed([(None, block) for _, block in blocks]) == sound).all()
    assert (placed([(None if k % 3 else time, block) for k, (time, block) in enumerate(blocks)]) == sound).all()
    late = [(None, np.zeros(441, np.float32)), *pieces(44100, 0.5, sound)]  # the first known time sets the clock
    assert clicks(placed(late), 44100) == pytest.approx([0.51], abs=0.001)


def test_a_clock_that_begins_again_goes_on(tmp_path):
    one = clip_with(tmp_path / "one.mkv", pieces(44100, 0, click(44100, 1.0, 0.5)))
    video.write_video(tmp_path / "a.mpg", np.zeros((25, 32, 32, 3), np.uint8), 25, *audio.read_audio(one))
    content = (tmp_path / "a.mpg").read_bytes()
    (tmp_path / "twice.mpg").write_bytes(content + content)
    samples, rate = audio.read_audio(tmp_path / "twice.mpg")
    assert clicks(samples, rate)[0] == pytest.approx(0.5, abs=0.002)
    assert clicks(samples, rate)[-1] == pytest.approx(1.5, abs=0.05)
    assert len(video.read_video(tmp_path / "twice.mpg").frames) == 50


def test_times_of_milliseconds_and_one_wrong_time_change_nothing(tmp_path):
    sound = tone(440, 1.0, 44100)
    samples, rate = audio.read_audio(clip_with(tmp_path / "a.mkv", pieces(44100, 0, sound)))
    assert rate == 44100
    assert np.abs(samples - sound).max() < 1e-3
    for wrong in (0.3, -0.3, 7.0, -7.0):
        blocks = [(time + wrong * (k == 4), block) for k, (time, block) in enumerate(pieces(44100, 0, sound))]
        assert (placed(blocks) == sound).all()


def test_damaged_times_are_refused(tmp_path):
    sound = tone(440, 0.5, 44100)
    path = clip_with(tmp_path / "a.mkv", [*pieces(44100, 0, sound), *pieces(44100, 40000, sound)])
    with pytest.raises(ValueError, match=r"a\.mkv has a sound whose timestamps jump by 40000 seconds"):
        audio.read_audio(path)


def mp3(path, rate, samples):
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=rate, layout="mono")
        block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = rate, 0, Fraction(1, rate)
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("rates", [(44100, 22050), (24000, 48000)])
def test_a_rate_that_changes_inside_a_file(tmp_path, rates):
    parts = [mp3(tmp_path / f"{rate}.mp3", rate, click(rate, 1.0, 0.5)) for rate in rates]
    (tmp_path / "both.mp3").write_bytes(b"".join(parts))
    for wanted in (None, 16000):
        samples, rate = audio.read_audio(tmp_path / "both.mp3", wanted)
        assert rate == (wanted or max(rates))
        assert len(samples) / rate == pytest.approx(2.15, abs=0.15)  # each part has the encoder's padding
        halves = [np.abs(half).argmax() / rate for half in np.split(samples, [round(1.05 * rate)])]
        assert halves[0] == pytest.approx(0.53, abs=0.06)
        assert halves[1] + 1.05 == pytest.approx(1.6, abs=0.1)


def two_streams(path, loud, default):
    """Two audio streams, of which one is loud and one is marked as the default."""
    from av.stream import Disposition

    with av.open(str(path), "w") as container:
        streams = [container.add_stream("aac", rate=16000, layout="mono") for _ in range(2)]
        for k, stream in enumerate(streams):
            stream.disposition = Disposition.default if k == default else Disposition(0)
        for k, stream in enumerate(streams):
            samples = tone(440, 1.0, 16000) if k == loud else np.zeros(16000, np.float32)
            block = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            block.sample_rate = 16000
            container.mux(stream.encode(block))
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
@pytest.mark.parametrize("default", [0, 1])
def test_the_default_audio_stream_is_read(tmp_path, suffix, default):
    heard, _ = audio.read_audio(two_streams(tmp_path / f"a.{suffix}", default, default))
    assert np.abs(heard).max() > 0.3
    still, _ = audio.read_audio(two_streams(tmp_path / f"b.{suffix}", 1 - default, default))
    assert np.abs(still).max() < 0.01


def float_wav(path, samples, rate=16000):
    content = samples.astype("<f4").tobytes()
    head = b"fmt " + struct.pack("<IHHIIHH", 16, 3, 1, rate, 4 * rate, 4, 32)
    body = b"WAVE" + head + b"data" + struct.pack("<I", len(content)) + content
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, bad):
    sound = tone(440, 1.0, 16000)
    sound[8000:8003] = bad
    with pytest.raises(ValueError, match=r"the sound of a\.wav holds values that are not finite .* at 0\.500 s"):
        audio.read_audio(float_wav(tmp_path / "a.wav", sound))
    with pytest.raises(ValueError, match="audio holds values that are not finite"):
        video.write_video(tmp_path / "a.mp4", np.zeros((25, 32, 32, 3), np.uint8), 25, sound, 16000)
    assert not (tmp_path / "a.mp4").exists()


def test_floats_of_another_scale(tmp_path):
    with pytest.raises(ValueError, match=r"has a peak of 16384, full scale being 1: .* Divide them"):
        audio.read_audio(float_wav(tmp_path / "a.wav", 32768 * tone(440, 1.0, 16000)))
    loud, _ = audio.read_audio(float_wav(tmp_path / "b.wav", 4 * tone(440, 1.0, 16000)))
    assert np.abs(loud).max() == 1  # clipped


def test_eight_bits_and_six_channels(tmp_path):
    sound = tone(440, 0.5, 16000)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(16000)
        file.writeframes(np.rint(sound * 127 + 128).astype(np.uint8).tobytes())
    assert np.abs(audio.read_audio(tmp_path / "a.wav")[0] - sound).max() < 0.01
    with wave.open(str(tmp_path / "b.wav"), "wb") as file:
        file.setnchannels(6)
        file.setsampwidth(2)
        file.setframerate(16000)
        channels = np.zeros((len(sound), 6))
        channels[:, 2] = sound  # the middle one
        file.writeframes((channels * 32767).astype("<i2").tobytes())
    assert np.abs(audio.read_audio(tmp_path / "b.wav")[0] - sound / 6).max() < 1e-3


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
