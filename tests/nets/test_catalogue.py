"""The table of published weights files: it says what the rest of the package says, and nothing that nobody read."""

import re

import pytest
import torch

from lipbench.media import landmarks
from lipbench.metrics import lpips
from lipbench.pretrained import published
from lipbench.pretrained.inception import WEIGHTS, weights_path
from lipbench.pretrained.published import KNOWN
from lipbench.scoring import observers


def test_files_are_those_that_the_loaders_look_for():
    assert KNOWN["alexnet"].file == lpips.BACKBONE
    assert KNOWN["inception"].file == WEIGHTS
    assert (KNOWN["fan"].file, KNOWN["s3fd"].file) == landmarks._FaceAlignment._FILES
    used = {known.observer for known in KNOWN.values() if known.observer}
    # The second reader takes what "transcript" takes, the guide face's landmarks what "landmarks" takes, and the judge
    # of whole frames what "syncnet" takes; small pictures of the face are made without weights.
    assert used == {"lpips", *observers.MAKE} - {"second_transcript", "guide_landmarks", "whole_syncnet", "lower_face"}


def test_places_are_those_where_the_loaders_look(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert str(KNOWN["dlib"].place(tmp_path)) == str(landmarks._predictor_file())
    for known, path_of in ((KNOWN["alexnet"], lpips.backbone_path), (KNOWN["inception"], weights_path)):
        place = known.place(tmp_path)
        assert place.is_relative_to(tmp_path / "torch")
        assert known.find(tmp_path) is None
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
        assert known.find(tmp_path) == place == path_of()


def test_addresses_are_those_of_the_packages_that_publish_the_files():
    import face_alignment.api
    from face_alignment.detection.sfd import sfd_detector
    from torchvision.models import AlexNet_Weights

    assert KNOWN["alexnet"].address() == AlexNet_Weights.IMAGENET1K_V1.url
    assert KNOWN["fan"].address() == face_alignment.api.models_urls["2DFAN-4"]
    assert KNOWN["s3fd"].address() == sfd_detector.models_urls["s3fd"]
    by_hand = {name for name, known in KNOWN.items() if known.address() is None}
    readers = {"lipnet", "mvm", "avhubert", "conformer", "conformer-talklip"}
    assert by_hand == {"syncnet", "arcface", "dlib", "hifigan", *readers}
    for known in KNOWN.values():
        address = known.address()
        assert address is None or (address.startswith("https://") and address.endswith(f"/{known.file}"))


def test_no_hash_without_its_source():
    assert {name: known.sha256 for name, known in KNOWN.items() if known.sha256} == {
        "alexnet": "7be5be79",
        "inception": "6726825d",
        "i3d": "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538",
    }
    for known in KNOWN.values():
        assert bool(known.sha256) == bool(known.sha256_source)
        assert re.fullmatch(r"[0-9a-f]{0,64}", known.sha256)
        if len(known.sha256) == 8:
            assert f"-{known.sha256}." in known.file


def test_three_licenses_each():
    for name, known in KNOWN.items():
        assert name == known.name
        assert all((known.what, known.origin, known.code, known.weights, known.data))
    assert "NO COMMERCIAL USE" in KNOWN["dlib"].data  # as NOTICE says
    assert [name for name, known in KNOWN.items() if known.verified] == ["dlib"]


def test_a_name_with_scores_is_found_by_its_pattern(tmp_path):
    lipnet = KNOWN["lipnet"]
    assert lipnet.find(tmp_path) is None
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "LipNet_b.pt").touch()
    (tmp_path / "weights" / "LipNet_a.pt").mkdir()
    assert lipnet.find(tmp_path) == tmp_path / "weights" / "LipNet_b.pt"
    assert lipnet.matches("LipNet_unseen_loss_0.4_wer_0.1_cer_0.06.pt")
    assert not lipnet.matches("lipnet_unseen.pt")
    assert not KNOWN["syncnet"].matches("syncnet_v1.model")


def test_a_missing_package_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install face_recognition_models"):
        KNOWN["dlib"].place(tmp_path)


def test_torch_hub_is_asked_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "elsewhere"))
    assert KNOWN["fan"].place(tmp_path).parent == tmp_path / "elsewhere" / "checkpoints"
