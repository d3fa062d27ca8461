"""Runs the tests in several processes: `python tests/parallel.py [options of pytest]`, which is what `make test` does.

A folder of tests is one process, because it shares fixtures that take long (a rendered corpus, a trained model); so are
the files beside the folders together. Each has one thread, and as many run at a time as there are processors. The
output of each is shown whole when it ends; the closing line counts all of them.
"""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

FIRST = ("commands", "evaluation", "models", "data")
"""Folders that take longest; begun last, they would be waited for."""
KINDS = ("failed", "passed", "skipped", "deselected", "xfailed", "error", "errors")
NOTHING = 5  # pytest's exit code where no test was chosen, such as by `-k`


def parts(folder: Path) -> list[list[str]]:
    """What each process is given: folders, the longest first, and the files beside them."""
    folders = sorted({path.parent for path in folder.rglob("test_*.py")} - {folder})
    order = {name: place for place, name in enumerate(FIRST)}
    folders.sort(key=lambda path: order.get(path.name, len(order)))
    beside = [[str(path) for path in sorted(folder.glob("test_*.py"))]]
    return [[str(path)] for path in folders[: len(FIRST)]] + beside + [[str(path)] for path in folders[len(FIRST) :]]


def run(part: Sequence[str], options: Sequence[str], compiled: str) -> tuple[int, str]:
    """Exit code and output of the tests of one part; modules are compiled into a folder where they are kept nowhere."""
    command = [sys.executable, "-m", "pytest", *options, *part]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):  # every process would spend 10 s on what it imports
        environment["PYTHONPYCACHEPREFIX"] = compiled
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    print(done.stdout, end="", flush=True)
    return done.returncode, done.stdout


def main(options: Sequence[str], folder: Path) -> int:
    """Run all parts.

    Args:
        options: Of pytest.
        folder: Of the tests.

    Returns:
        0 if every test that was chosen passed.
    """
    start = time.monotonic()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with TemporaryDirectory() as compiled, ThreadPoolExecutor(processors) as pool:
        found = list(pool.map(lambda part: run(part, options, compiled), filter(None, parts(folder))))
    counts: Counter[str] = Counter()
    for _, text in found:
        closing = [line for line in text.splitlines() if re.search(r" in [\d.]+s\b", line)][-1:]
        counts.update({what: int(number) for number, what in re.findall(r"(\d+) ([a-z]+)", " ".join(closing))})
    kinds = [
        kind for kind in ("failed", "passed", "skipped", "deselected", "xfailed", "error", "errors") if counts[kind]
    ]
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in kinds) or "no tests ran"
    print(f"=== {summary} in {time.monotonic() - start:.2f}s ===")
    failed = [code for code, _ in found if code not in (0, NOTHING)]
    return failed[0] if failed else NOTHING if all(code == NOTHING for code, _ in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parent))
