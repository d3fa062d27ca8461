"""The tables of docs/results.md: every number is that of its record, rounded once."""

import csv
import re
from collections import Counter
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
    "WER, second reader": "wer[second]",
    "CER, second reader": "cer[second]",
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
            "frozen first frame of the face": "frozen-frame/face-96x96-62a20909",
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
    "TalkLip's Table 1, small, on `rendered/seen`": (
        "rendered/seen",
        {
            "L1 alone": "talklip/table1-no-lip-gan",
            "+ discriminator (without lip-reading loss)": "talklip/table1-no-lip",
            "TalkLip (l)": "talklip/table1-l",
            "TalkLip (g)": "talklip/table1-g",
            "TalkLip (g + c)": "talklip/table1-gc",
            "TalkLip (g + c), another clip's sound": "talklip/table1-gc.wrong-audio",
            "TalkLip (g + c), silence": "talklip/table1-gc.silent-audio",
            "frozen first frame": "frozen-frame/face-96x96-5c5be6c6",
            "ground truth at 96×96 and back": "resized-truth/face-96x96-5c5be6c6",
            "ground truth": "ground-truth/face-96x96-5c5be6c6",
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


def section_text(section: str) -> str:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    return page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("section", SECTIONS)
def test_numbers_are_those_of_the_records(section):
    protocol, rows = SECTIONS[section]
    text = section_text(section)
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


def test_figure_4_is_that_of_its_tables():
    """Counts and means, in the table and in the words below it."""
    text = section_text("Figure 4 of the correlation GAN's paper: lips against audio, on GRID").replace("−", "-")
    clips, best, means = {}, {}, {}
    for name in ("figure4", "figure4_wide", "figure4_signed"):
        with (ROOT / "docs" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        clips[name] = [row["clip_id"] for row in rows]
        best[name] = Counter(int(row["best_shift"]) for row in rows)
        columns = [column for column in rows[0] if column.startswith("r[")]
        means[name] = {int(c[2:-1]): sum(float(row[c]) for row in rows) / len(rows) for c in columns}
    assert clips["figure4"] == clips["figure4_wide"] == clips["figure4_signed"]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*$", text, re.M)[2:]]
    assert [int(line[0]) for line in lines] == list(range(-8, 9))
    for shift, r, paper, wide, signed_r, signed, _ in lines:
        key = int(shift)
        assert [r, signed_r] == [f"{means[name][key]:.3f}" for name in ("figure4_wide", "figure4_signed")]
        assert paper == (str(best["figure4"][key]) if 0 <= key <= 7 else "")
        assert [wide, signed] == [str(best[name][key]) for name in ("figure4_wide", "figure4_signed")]
    published = [int(line[-1]) for line in lines]
    equal = sum(published) / len(published)
    chi_square = sum((count - equal) ** 2 / equal for count in published)
    count = len(clips["figure4"])
    wide, signed = best["figure4_wide"], best["figure4_signed"]
    near, near_wide = (found[0] + found[1] for found in (best["figure4"], wide))
    before, after = (sum(wide[shift] for shift in those) for those in (range(-8, 0), range(2, 9)))
    for words in (
        f"over {count} clips at hand, of which {sum('/s1/' in clip for clip in clips['figure4'])} are of speaker s1",
        f"best for at least {min(best['figure4'].values())} of {count} clips",
        f"preferred by {near} clips ({near / count:.1%}; equal shares: 25 %)".replace("%;", " %;"),
        f"lead with {near_wide} clips ({near_wide / count:.1%}; equal shares: {2 / 17:.1%})".replace("%", " %"),
        f"(-8 to -1) are preferred by {before} clips ({before / count:.1%})".replace("%", " %"),
        f"(2 to 8) by {after} ({after / count:.1%})".replace("%", " %"),
        f"the largest mean r here is {max(means['figure4_signed'].values()):.3f}",
        f"preferred by {signed[0] + signed[1]} clips of {count}",
        f"({means['figure4_wide'][0]:.3f} and {means['figure4_wide'][1]:.3f})",
        f"({means['figure4_wide'][8]:.3f} at 8 frames)",
        f"They sum to {sum(published):,}",
        f"Equal shares would be {equal:.0f} each; chi-square is {chi_square:.1f}",
    ):
        assert words in text
