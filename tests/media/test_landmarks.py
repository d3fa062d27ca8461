import sys

import cv2
import numpy as np
import pytest
from skimage import data

from lipbench.media import geometry, landmarks, video


class Disc:
    """A landmarker that sees one bright disc as a face; `boxes` counts the frames that the detector looked at."""

    name = "disc"

    def __init__(self):
        self.boxes = 0
        left, top, right, bottom = landmarks.box_of(geometry.TEMPLATE)
        self.shape = 2 * (geometry.TEMPLATE - ((left + right) / 2, (top + bottom) / 2)) / (right - left)

    def detect(self, frame):
        self.boxes += 1
        return self._disc(frame)

    def points(self, frame, box):
        left, top, right, bottom = box
        seen = self._disc(frame, (int(max(left, 0)), int(max(top, 0)), int(right) + 1, int(bottom) + 1))
        left, top, right, bottom = seen or box
        return (np.array([left + right, top + bottom]) / 2 + self.shape * (right - left) / 2).astype(np.float32)

    def _disc(self, frame, inside=None):
        left, top, right, bottom = inside or (0, 0, frame.shape[1], frame.shape[0])
        rows, columns = np.nonzero(frame[top:bottom, left:right, 0] > 128)
        if len(rows) < 50:
            return None
        return (
            left + float(columns.min()),
            top + float(rows.min()),
            left + float(columns.max()),
            top + float(rows.max()),
        )


def scene(centers, radius=30, size=(200, 300)) -> list[np.ndarray]:
    """Frames with a disc at each center (x, y); None leaves a frame empty."""
    y, x = np.mgrid[: size[0], : size[1]]
    frames = []
    for center in centers:
        frame = np.zeros((*size, 3), np.uint8)
        if center is not None:
            frame[(x - center[0]) ** 2 + (y - center[1]) ** 2 <= radius**2] = 255
        frames.append(frame)
    return frames


def centers_of(track: landmarks.Track) -> np.ndarray:
    boxes = landmarks.box_of(track.points)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def test_every_15th_frame_is_detected_and_all_are_followed():
    path = [(80 + 0.5 * k, 90 + 0.2 * k) for k in range(75)]
    disc = Disc()
    track = landmarks.track(scene(path), disc)
    assert disc.boxes == 5
    assert track.found.all()
    assert track.coverage == 1.0
    assert (track.points.shape, track.points.dtype) == ((75, 68, 2), np.float32)
    error = np.abs(centers_of(track) - path).max(1)
    assert error[:61].max() < 1.5
    assert error.max() < 4  # after the last look the box stands still and cuts the disc, which a face would not mind


def test_frames_without_a_face_are_found_out_one_by_one():
    path = [None if 27 <= k < 40 or k < 12 else (100 + k, 90) for k in range(75)]
    track = landmarks.track(scene(path), Disc())
    assert track.found.tolist() == [p is not None for p in path]
    assert track.coverage == 50 / 75
    moved = centers_of(track)[27:40, 0]
    assert np.abs(moved - (100 + np.arange(27, 40))).max() < 1.5  # interpolated over the gap
    assert np.abs(track.points[:12] - track.points[12]).max() == 0  # repeated at the start


def test_a_jump_between_two_looks_is_noticed():
    path = [(70, 90) if k < 17 or k >= 28 else (140, 90) for k in range(60)]
    track = landmarks.track(scene(path), Disc())
    assert track.found.all()
    assert np.abs(centers_of(track) - path).max() < 1.5


def test_a_gap_between_two_looks_is_noticed():
    path = [None if 17 <= k < 28 else (70, 90) for k in range(60)]
    assert landmarks.track(scene(path), Disc()).found.tolist() == [p is not None for p in path]


def test_a_false_alarm_in_the_background_is_dropped():
    frames = scene([(70, 120)] * 60)
    frames[30] = scene([(250, 40)], radius=14)[0]
    track = landmarks.track(frames, Disc())
    assert np.flatnonzero(~track.found).tolist() == [30]
    assert np.abs(centers_of(track) - (70, 120)).max() < 1.5


def test_no_face_at_all():
    with pytest.raises(ValueError, match="no face found in any of 5 probed frames"):
        landmarks.track(scene([None] * 75), Disc())
    with pytest.raises(ValueError, match="no frames"):
        landmarks.track([], Disc())


def test_one_frame_is_enough():
    assert landmarks.track(scene([(90, 90)]), Disc()).points.shape == (1, 68, 2)


def test_box_of_moves_with_the_points():
    template = geometry.TEMPLATE
    left, top, right, bottom = landmarks.box_of(template)
    assert right - left == pytest.approx(bottom - top)
    moved = landmarks.box_of(np.stack([template, template * 2 + (10, -5)]))
    assert moved.shape == (2, 4)
    assert moved[1] == pytest.approx([left * 2 + 10, top * 2 - 5, right * 2 + 10, bottom * 2 - 5])


def test_unknown_backend():
    with pytest.raises(ValueError, match="unknown landmark backend 'mediapipe'; known are dlib, face-alignment"):
        landmarks.load("mediapipe")


def test_face_alignment_without_weights_names_files_and_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError) as caught:
        landmarks.load("face-alignment")
    message = str(caught.value)
    assert "2DFAN4-11f355bf06.pth.tar and s3fd-619a316812.pth" in message
    assert str(tmp_path / "hub" / "checkpoints") in message


@pytest.fixture(scope="module")
def dlib():
    return landmarks.load("dlib")


@pytest.fixture(scope="module")
def clip(grid_root) -> list[np.ndarray]:
    return video.read_video(grid_root / "video" / "s2" / "pwij3p.mpg").frames


def test_dlib_is_loaded_once_and_without_its_data_package(dlib):
    assert landmarks.load("dlib") is dlib
    assert "face_recognition_models" not in sys.modules


def test_points_lie_on_the_face(dlib, clip):
    points = dlib.points(clip[30], dlib.detect(clip[30]))
    assert (points.shape, points.dtype) == ((68, 2), np.float32)
    right_eye, left_eye, nose, mouth, chin = (
        points[i].mean(0) for i in (slice(36, 42), slice(42, 48), slice(30, 36), slice(48, 68), slice(7, 10))
    )
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_eye[1] < nose[1] < mouth[1] < chin[1]
    fitted = geometry.transform_points(points[None], geometry.similarity(points[None]))[0]
    assert np.linalg.norm(fitted - (geometry.TEMPLATE + np.array([32, 16])), axis=-1).mean() < 6  # px of the 256 face


def test_frames_that_color_detection_misses(dlib, grid_root):
    for name in ("s2/pwij3p.mpg", "s26/pwabza.mpg"):
        assert dlib.detect(video.read_video(grid_root / "video" / name).frames[30]) is not None


def test_points_follow_a_shift_by_parts_of_a_pixel(dlib, clip):
    import cv2

    errors = []
    for frame in clip[::10]:
        box = dlib.detect(frame)
        moved = cv2.warpAffine(frame, np.array([[1, 0, 0.5], [0, 1, 0.25]]), frame.shape[1::-1])
        errors.append(dlib.points(moved, box) - dlib.points(frame, box) - (0.5, 0.25))
    assert np.linalg.norm(errors, axis=-1).mean() < 0.6  # whole-pixel points of plain dlib: 0.8


def test_small_and_large_frames(dlib, clip):
    import cv2

    frame = clip[30]
    points = dlib.points(frame, dlib.detect(frame))
    for scale in (0.4, 4.0):  # faces of 50 and 500 px
        resized = cv2.resize(
            frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        box = dlib.detect(resized)
        assert box is not None
        again = (dlib.points(resized, box) + 0.5) / scale - 0.5
        assert np.linalg.norm(again - points, axis=-1).mean() < 2.5


def test_nothing_in_noise_and_partly_outside_boxes_work(dlib, clip):
    noise = np.random.default_rng(0).integers(0, 256, (144, 180, 3)).astype(np.uint8)
    assert dlib.detect(noise) is None
    for box in [(-50.0, -40.0, 80.0, 90.0), (340.0, 270.0, 500.0, 430.0), (400.0, 300.0, 500.0, 400.0)]:
        assert np.isfinite(dlib.points(clip[0], box)).all()


def test_box_of_serves_as_well_as_the_detector(dlib, grid_root):
    sides, shifts, between = [], [], []
    for path in sorted((grid_root / "video").glob("s[2-9]*/*.mpg"))[::3]:
        frame = video.read_video(path).frames[20]
        box = np.array(dlib.detect(frame))
        points = dlib.points(frame, tuple(box))
        fitted = landmarks.box_of(points)
        sides.append((fitted - box)[2] - (fitted - box)[0])
        shifts.append(((fitted - box)[:2] + (fitted - box)[2:]) / 2)
        between.append(np.linalg.norm(dlib.points(frame, tuple(fitted)) - points, axis=-1).mean())
    assert len(sides) >= 6
    assert np.sqrt(np.mean(np.square(sides))) < 15  # the detector's sizes come in steps of a fifth: 103, 124, 149 px
    assert np.abs(shifts).mean() < 6
    assert np.mean(between) < 1.2


def test_real_clip_whole(dlib, clip):
    track = landmarks.track(clip, dlib)
    assert track.found.all()
    steps = np.linalg.norm(np.diff(track.points, axis=0), axis=-1)[:, 27:48]
    assert steps.mean() < 1.0
    assert steps.max() < 8


def test_smeared_pictures_between_two_looks_are_noticed(dlib, clip):
    frames = list(clip)
    for k in range(17, 29):  # one group of pictures of an MPEG file
        frames[k] = np.roll(frames[k], 90, 1)
    track = landmarks.track(frames, dlib)
    shift = (track.points - landmarks.track(clip, dlib).points)[:, 27:48].mean(1)
    moved = np.array([17 <= k < 29 for k in range(75)])
    assert track.found.all()
    assert np.abs(shift[moved] - (90, 0)).max() < 2
    assert np.abs(shift[~moved]).max() < 2
    for k in range(17, 29):
        frames[k] = np.random.default_rng(k).integers(0, 256, clip[0].shape).astype(np.uint8)
    assert landmarks.track(frames, dlib).found.tolist() == (~moved).tolist()


@pytest.mark.parametrize("name", ["bwwuzn", "pbio7a"])
def test_broken_pictures_show_as_frames_without_a_face(dlib, grid_root, name):
    track = landmarks.track(video.read_video(grid_root / "video" / "s1" / f"{name}.mpg").frames, dlib)
    assert not track.found[:12].any()
    assert track.coverage < 0.9


def astronaut():
    """A face and its box."""
    frame = data.astronaut()
    found = landmarks.load("dlib").detect(frame)
    assert found is not None
    return frame, tuple(landmarks.box_of(landmarks.load("dlib").points(frame, found)).tolist())


def test_a_face_is_seen_where_it_is_and_nowhere_else():
    frame, box = astronaut()
    left, top, right, bottom = box
    dlib, side = landmarks.load("dlib"), right - left
    small = cv2.resize(frame, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    assert dlib.sees(frame, box)
    assert dlib.sees(cv2.GaussianBlur(frame, (0, 0), 3), box)
    assert dlib.sees(small, tuple(0.3 * v for v in box))
    assert not dlib.sees(frame, (left + side, top + side, right + side, bottom + side))
    assert not dlib.sees(frame, (left - side, top - side, right + side, bottom + side))
    for other in (0 * frame, data.brick()[..., None].repeat(3, 2), np.ascontiguousarray(frame[::-1])):
        assert not dlib.sees(other, box)


def test_plain_frames_and_noise_have_no_structure():
    rng = np.random.default_rng(0)
    _, (left, top, right, _) = astronaut()
    mouth = data.astronaut()[int(top) + 70 : int(top) + 120, int(left) : int(right)]
    assert landmarks.structured(mouth)
    assert landmarks.structured(cv2.GaussianBlur(mouth, (0, 0), 5))
    assert landmarks.structured(mouth // 3)
    for plain in (
        0 * mouth,
        0 * mouth + np.array([230, 140, 60], np.uint8),
        rng.integers(100, 116, mouth.shape, np.uint8),
    ):
        assert not landmarks.structured(plain)
    assert not landmarks.structured(rng.integers(0, 256, (80, 160, 3), np.uint8))
