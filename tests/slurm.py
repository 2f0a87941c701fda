"""A smoke run on a Slurm cluster to which everything happens, held against a run left alone on this machine.

python tests/slurm.py --like smoke

Needs a cluster that this machine submits to (one node is enough), snakemake-executor-plugin-slurm, and the run that is
compared with. The first `sbatch` fails; a job that scores one of two parts is killed; the command and its Snakemake are
killed while models are measured. Shown: what was tried again, that jobs end without their command, what the second
command did, and whether the comparison is the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from kill import ROOT, kill

RUN = "slurm"


def profile(folder: Path, partition: str) -> Path:
    "The profile of the project with memory and time for a small node."
    settings = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text(encoding="utf-8"))
    settings["default-resources"] = {"slurm_partition": partition, "runtime": 60, "mem_mb": 3000}
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def failing_once(folder: Path) -> dict[str, str]:
    "An environment in which the first `sbatch` fails."
    real = subprocess.run(["which", "sbatch"], text=True, capture_output=True, check=True).stdout.strip()
    folder.mkdir()
    script = f'#!/bin/sh\n[ -e {folder}/failed ] && exec {real} "$@"\ntouch {folder}/failed\n'
    (folder / "sbatch").write_text(script + "echo 'sbatch: error: Socket timed out' >&2\nexit 1\n", encoding="utf-8")
    (folder / "sbatch").chmod(0o755)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def jobs(words: str) -> list[psutil.Process]:
    "Processes of jobs on this machine whose command has these words."
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "-m disti run" in line and words in line and "/bin/sh" not in line and "snakemake" not in line:
            found.append(process)
    return found


def wait_for(what: str, found, seconds: float = 1500):
    "Look until there is something."
    began = time.time()
    while not (some := found()):
        if time.time() - began > seconds:
            raise SystemExit(f"no {what} within {seconds:.0f} s")
        time.sleep(0.2)
    return some


def queue() -> list[str]:
    "Jobs that wait or run."
    return subprocess.run(["squeue", "-h"], text=True, capture_output=True).stdout.splitlines()


def main() -> None:
    "Run, hurt, run again, compare."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", default="smoke", help="a finished run of the same recipe, made on this machine alone")
    parser.add_argument("--partition", default="gpu")
    asked = parser.parse_args()
    home = ROOT / "artifacts" / RUN
    with tempfile.TemporaryDirectory() as place:
        where = str(profile(Path(place) / "profile", asked.partition))
        env = failing_once(Path(place) / "bin")
        words = [sys.executable, "-m", "disti", "pipeline", "recipes/demo.yaml", "--profile", where]
        words += ["--set", "scale=smoke", f"run={RUN}", "score.parts=2"]
        first = subprocess.Popen(words, cwd=ROOT, env=env)
        for process in wait_for("job that scores a part", lambda: jobs('"part": 0')):
            time.sleep(5)
            process.kill()
        print("killed: the job of part 0", flush=True)
        wait_for("second try of it", lambda: jobs('"part": 0'))
        wait_for("model being measured", lambda: jobs("run evaluate"))
        left = kill(first, whole=True)
        began = time.time()
        while jobs("") and time.time() - began < 60:
            time.sleep(0.5)
        print(f"killed: the command; {len(left)} of its processes and {len(jobs(''))} jobs live on", flush=True)
        wait_for("end of all jobs", lambda: not queue(), 120)
        second = subprocess.run(words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE)
    print(second.stdout[-1500:])
    ran = [line.split(" | ")[0] for line in second.stdout.splitlines() if " | done in " in line]
    same = json.loads((home / "results/comparison.json").read_text(encoding="utf-8")) == json.loads(
        (ROOT / "artifacts" / asked.like / "results/comparison.json").read_text(encoding="utf-8")
    )
    print(f"sbatch failed once; the second command ran {len(ran)} jobs: {', '.join(ran)}")
    print(f"exit code {second.returncode}; the comparison is {'the same' if same else 'another'}")
    sys.exit(second.returncode or not same)


if __name__ == "__main__":
    main()
