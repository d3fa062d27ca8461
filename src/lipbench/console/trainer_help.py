"""What `lipbench fit --help` prints: Lightning's own list of several hundred flags is one step further."""

import textwrap
from typing import Final

from lipbench import discovery

_WIDTH: Final = 110  # characters of a line of names

_COMMON: Final = """\
  --config NAME|FILE.yaml     a recipe (`lipbench list`; several are stacked); flags win over it, in any order{default}
  --print_config              print everything that would be used, as YAML, and stop
  --model.ARG X, --data.ARG X arguments of the model and the corpus, e.g. --model.lr 5e-4 --data.batch_size 8;
                              lists with or without brackets: --model.size 40,80
  --trainer.ARG X             anything of Lightning's Trainer, e.g.
      --trainer.max_time 00:01:00:00     stop this run after days:hours:minutes:seconds
      --trainer.max_steps 20000          stop after so many batches, those before a resume included
      --trainer.devices 4 --trainer.strategy ddp
      --trainer.precision bf16-mixed
      --trainer.fast_dev_run true        one batch of everything, nothing is written
      --trainer.default_root_dir runs    where run folders go
  --tracking.wandb offline    log to Weights & Biases too; online needs a key
  --seed_everything 0         another number is another run"""

_DEFAULT: Final = """
                              (default: experiments/<model>_<data>.yaml where there is one; `none` leaves it out)"""
_WEIGHTS: Final = """\
  --ckpt_path FILE|last|best  which weights; `last` and `best` are those of the newest run. A FILE needs no --model and
                              --data: it brings the arguments of its run"""
_OWN: Final = {
    "fit": """\
  --ckpt_path FILE|last       resume a run that stopped, in its own folder; its arguments stay as they were. Ctrl-C and
                              SIGTERM stop at the end of a batch, save, and print the line that resumes""",
    "validate": _WEIGHTS,
    "test": f"{_WEIGHTS}\n  --evaluator.ARG X           what is scored and where the record goes",
    "predict": f"{_WEIGHTS}\n{' ' * 30}(videos go into the run's folder: as made, and beside the reference)",
}


def trainer(command: str) -> str:
    """Help for fit, validate, test or predict.

    Args:
        command: Its name.
    """
    lines = [
        f"usage: lipbench {command} --model NAME --data NAME [options]",
        f"       lipbench {command} --config NAME [options]",
        "",
    ]
    names = ", ".join(discovery.files("model"))  # too many for a line each: the help should fit a screen
    lines += ["Models (--model NAME; `lipbench list` says what each is):"]
    lines += textwrap.wrap(names, _WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    lines += ["", "Corpora (--data NAME):"]
    lines += [f"  {name:14} {discovery.summary(path)}" for name, path in discovery.files("data").items()]
    lines.append("")
    common = _COMMON.format(default=_DEFAULT if command == "fit" else "")
    lines += ["Options:", _OWN[command], common, "", "More:"]
    for kind, what in (("model", "model"), ("data", "corpus")):
        name = next(iter(discovery.files(kind)), "NAME")
        lines.append(f"  lipbench {command} --{kind}.help {name:8} arguments of one {what} with their defaults")
    lines.append(f"  lipbench {command} --help-all            every flag that Lightning accepts")
    return "\n".join(lines)
