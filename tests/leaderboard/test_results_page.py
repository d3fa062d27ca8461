"""The tables of docs/results.md: every number is that of its record, rounded once."""

import re
from pathlib import Path

import pytest

from lipbench.evaluation import record

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "native PSNR": "native/psnr",
    "mouth PSNR": "mouth/psnr",
    "native SSIM": "native/ssim",
    "LMD, px of the 256 face": "lmd",
    "LMD": "lmd",
    "opening correlation, speech span": "opening_corr[speech]",
    "opening correlation, whole clip": "opening_corr",
    "amplitude": "opening_ratio",
    "LSE-C": "lse_c",
    "LSE-D": "lse_d",
    "AV offset": "av_offset",
    "WER": "wer",
    "CER": "cer",
    "CPBD": "mouth/cpbd",
    "native CPBD": "native/cpbd",
}
GRID, FACES = "mouth-40x80-508d0391", "face-96x96-08cf9694"
DRIVEN = {
    "LipGAN": "lipgan/small",
    "LipGAN, another clip's sound": "lipgan/small.wrong-audio",
    "LipGAN, silence": "lipgan/small.silent-audio",
    "Wav2Lip": "wav2lip/small",
    "Wav2Lip, another clip's sound": "wav2lip/small.wrong-audio",
    "Wav2Lip, silence": "wav2lip/small.silent-audio",
}
SECTIONS = {
    "ParaLip, small, on `grid/s1`": (
        "grid/s1",
        {
            "ParaLip, durations given": "paralip/small",
            "the same, durations predicted and fitted to the true length": "paralip/small-length",
            "the first row's model, wrong text": "paralip/small.wrong-text",
            "frozen first frame": f"frozen-frame/{GRID}",
            "mean mouth": f"mean-mouth/{GRID}",
            "ground truth as H.264 (CRF 23)": f"reencoded-truth/{GRID}",
            "ground truth at 40×80 and back": f"resized-truth/{GRID}",
            "ground truth": f"ground-truth/{GRID}",
            "ground truth, another clip's sound": f"shuffled-audio/{GRID}",
            "ground truth, another clip's text": f"shuffled-text/{GRID}",
        },
    ),
    "ParaLip's Table 4, small, on `grid/s1`": (
        "grid/s1",
        {
            "base": "paralip/table4-base",
            "+SSIM": "paralip/table4-ssim",
            "+ADV": "paralip/table4-adv",
            "+SSIM+ADV": "paralip/table4-ssim-adv",
            "base, wrong text": "paralip/table4-base.wrong-text",
            "frozen first frame": "frozen-frame/mouth-64x128-b8d75e51",
            "ground truth as H.264 (CRF 23)": "reencoded-truth/mouth-64x128-b8d75e51",
            "ground truth at 64×128 and back": "resized-truth/mouth-64x128-b8d75e51",
            "ground truth": "ground-truth/mouth-64x128-b8d75e51",
        },
    ),
    "LipGAN and Wav2Lip, small, on `grid/s1`": (
        "grid/s1",
        {
            **DRIVEN,
            "frozen first frame (of the mouth)": f"frozen-frame/{GRID}",
            "ParaLip, durations given (above)": "paralip/small",
        },
    ),
    "LipGAN and Wav2Lip, small, on `rendered/seen`": (
        "rendered/seen",
        {
            **DRIVEN,
            "frozen first frame": f"frozen-frame/{FACES}",
            "ground truth at 96×96 and back": f"resized-truth/{FACES}",
            "ground truth": f"ground-truth/{FACES}",
            "ground truth, another clip's sound": f"shuffled-audio/{FACES}",
        },
    ),
    "LipGAN's two improvements, one by one": (
        "rendered/seen",
        {
            "neither": "lipgan/ablation-plain",
            "lip weight 5": "lipgan/ablation-lips",
            "second discriminator": "lipgan/ablation-quality",
            "both": "lipgan/ablation-both",
        },
    ),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_numbers_are_those_of_the_records(section):
    protocol, rows = SECTIONS[section]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    text = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    header, _, *lines = [
        [cell.strip() for cell in line.strip().strip("|").split("|")] for line in re.findall(r"^\|.*$", text, re.M)
    ]
    assert [line[0] for line in lines] == list(rows)
    for label, *cells in lines:
        scores = record.read(ROOT / "leaderboards" / "results" / protocol / f"{rows[label]}.json").scores
        for heading, cell in zip(header[1:], cells, strict=True):
            if cell:
                value, shown = scores[COLUMNS[heading]].value, cell.replace("−", "-")
                assert float(shown) == float(f"{value:.{len(shown.partition('.')[2])}f}"), (label, heading)
