"""Kill a run with SIGKILL in the middle of a stage, start it again, and compare what came of it with a run left alone.

python tests/kill.py --run killed --at mine score train evaluate --like smoke
python tests/kill.py --run killed --random 10 --within 30 --like smoke      whatever it does just then
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
AT = {
    "mine": "11_mine",
    "teach": "12_teach-0",
    "score": "13_score-teacher",
    "train": "14_distill-distilled",
    "evaluate": "17_evaluate-distilled",
}


def start(recipe: str, *sets: str, **more) -> subprocess.Popen:
    "Start a pipeline as anybody would."
    return subprocess.Popen([sys.executable, "-m", "disti", "pipeline", recipe, "--set", *sets], cwd=ROOT, **more)


def is_busy(home: Path, notebook: str) -> bool:
    "Has the stage read its inputs, and is it computing? papermill notes the state of every cell as it goes."
    for path in (home / "notebooks").glob(f".{notebook}.ipynb.*.tmp.ipynb"):
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (ValueError, OSError):  # just being written
            return False
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        first = next(i for i, cell in enumerate(code) if "parameters" in cell["metadata"].get("tags", []))
        states = [cell["metadata"].get("papermill", {}).get("status") for cell in code[first:]]
        return "running" in states and states.index("running") >= 3  # after parameters, injected ones, imports
    return False


def kill(process: subprocess.Popen, *, whole: bool) -> list[str]:
    "Kill the command, or it and all it started; return what of it lives on a while later."
    family = psutil.Process(process.pid).children(recursive=True)
    for member in [psutil.Process(process.pid), *(family if whole else [])]:
        member.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=20)
    return [" ".join(member.cmdline()) for member in alive]


def kill_at(stage: str, recipe: str, run: str, *sets: str, after: float = 1, whole: bool = True, **more) -> None:
    "Start a run, wait until a stage is computing, kill."
    process, home, began = start(recipe, f"run={run}", *sets, **more), ROOT / "artifacts" / run, time.time()
    while not is_busy(home, AT[stage]):
        if process.poll() is not None:
            raise RuntimeError(f"the run ended with exit code {process.returncode} before {AT[stage]} was killed")
        time.sleep(0.1)
    time.sleep(after)
    if left := kill(process, whole=whole):
        raise RuntimeError(f"killed at {stage}, but these live on: {left}")
    print(f"kill -9 at {AT[stage]}, {time.time() - began:.0f} s after the start", flush=True)


def kill_anywhere(n: int, within: float, seed: int, recipe: str, run: str, *sets: str) -> None:
    "Start a run n times and kill it after a while, every second time only the command itself."
    moments, began = random.Random(seed), time.time()
    for turn in range(n):
        process, rest = (
            start(recipe, f"run={run}", *sets, stdout=subprocess.PIPE, text=True),
            moments.uniform(2, within),
        )
        time.sleep(rest)
        if process.poll() is not None:
            raise RuntimeError(
                f"the run ended with exit code {process.returncode} before kill {turn + 1}; less --within?"
            )
        left = kill(process, whole=turn % 2 == 0)
        said = (process.stdout.read() if process.stdout else "").strip().splitlines()
        if left:
            raise RuntimeError(f"kill {turn + 1}, but these live on: {left}")
        at, whom = said[-1][:70] if said else "nothing said yet", "all" if turn % 2 == 0 else "the command"
        print(
            f"kill {turn + 1} of {n}, {whom}, after {rest:.0f} s ({time.time() - began:.0f} s in all): {at}", flush=True
        )


def main() -> int:
    "The command."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="recipes/demo.yaml")
    parser.add_argument("--run", default="killed", help="name of the run that is killed; its folder must not exist")
    parser.add_argument("--at", nargs="+", choices=list(AT), default=["mine", "score", "train", "evaluate"])
    parser.add_argument("--random", type=int, default=0, metavar="N", help="kill at N random moments instead")
    parser.add_argument(
        "--within", type=float, default=30, help="the longest that it runs until a random kill, seconds"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--after", type=float, default=1, help="seconds into the stage's computation")
    parser.add_argument("--only-parent", action="store_true", help="kill the command alone; the rest ends by itself")
    parser.add_argument("--like", default="smoke", help="a finished run with the same settings to compare with")
    parser.add_argument("--set", nargs="*", default=["scale=smoke"], metavar="KEY=VALUE")
    asked = parser.parse_args()
    if (ROOT / "artifacts" / asked.run).exists():
        parser.error(f"artifacts/{asked.run} exists; remove it or take another name")
    if asked.random:
        kill_anywhere(asked.random, asked.within, asked.seed, asked.recipe, asked.run, *asked.set)
    for stage in asked.at if not asked.random else ():
        kill_at(stage, asked.recipe, asked.run, *asked.set, after=asked.after, whole=not asked.only_parent)
    if start(asked.recipe, f"run={asked.run}", *asked.set).wait():
        return 1
    one, two = (ROOT / "artifacts" / run / "results" / "comparison.json" for run in (asked.run, asked.like))
    same = one.read_bytes() == two.read_bytes()
    print(f"comparison.json of {asked.run} and {asked.like}: {'the same, byte for byte' if same else 'DIFFERENT'}")
    if not same:
        for a, b in zip(*(re.findall(r".*\n", path.read_text(encoding="utf-8")) for path in (one, two)), strict=False):
            if a != b:
                print(f"- {b}+ {a}", end="")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
