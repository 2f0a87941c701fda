"Many machines: shares of a scoring are the bits of one job, and the files for clusters say what is there."

import re
import sqlite3
from pathlib import Path

import pytest
import yaml
from conftest import BIN, ROOT, call
from test_docs import check_command

from disti.scores import part_file

CLOUDS = sorted((ROOT / "profiles" / "sky").glob("*.yaml")) + sorted((ROOT / "profiles" / "kubernetes").glob("*.yaml"))


def pairs(store: Path) -> int:
    "How many scores a store holds."
    with sqlite3.connect(store) as db:
        return db.execute("SELECT COUNT(*) FROM scores").fetchone()[0]


def test_two_jobs_score_the_bits_of_one(stage_files: Path) -> None:
    folder = stage_files / "teacher-score"
    alone = {name: (folder / f"{name}.jsonl").read_bytes() for name in ("train", "dev", "test")}
    before = pairs(folder / "pairs.sqlite")
    for path in [*folder.glob("*.jsonl*"), *folder.glob("pairs.sqlite*")]:
        path.unlink()
    small = ["-p", "parts", "2", "-p", "commit_pairs", "64"]
    for part in range(2):
        done = call(BIN / "disti", "run", "share", "-p", "run", "smoke", "-p", "part", str(part), *small)
        assert done.returncode == 0, done.stdout[-3000:]
    shares = [pairs(part_file(folder, part, 2)) for part in range(2)]
    assert min(shares) > 100 and sum(shares) <= before, (shares, before)  # the probe of dev lists is stage score's
    done = call(BIN / "disti", "run", "score", "-p", "run", "smoke", *small)
    assert done.returncode == 0, done.stdout[-3000:]
    assert pairs(folder / "pairs.sqlite") == before
    assert {name: (folder / f"{name}.jsonl").read_bytes() for name in alone} == alone


def commands(part: object) -> list[str]:
    "The texts of a YAML file that call disti."
    if isinstance(part, dict):
        return [line for value in part.values() for line in commands(value)]
    if isinstance(part, list) and part[:1] == ["disti"]:
        return [" ".join(part)]
    if isinstance(part, list):
        return [line for value in part for line in commands(value)]
    found = re.findall(r"disti (?:run|pipeline) [^\n|;]+", part) if isinstance(part, str) else []
    return [re.sub(r'"?\$(\w+)"?', "demo", line) for line in found]


@pytest.mark.parametrize("path", CLOUDS, ids=[f"{path.parent.name}-{path.stem}" for path in CLOUDS])
def test_what_a_cloud_is_told_exists(path: Path) -> None:
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    lines = commands(told)
    assert bool(lines) != (path.stem == "pool"), "a pool only waits"
    for line in lines:
        check_command(re.sub(r"-p (part|parts) demo", r"-p \1 1", line.replace("--set demo", "--set run=rented")))
    if path.parent.name == "kubernetes":
        pod = told["spec"]["template"]["spec"]
        named = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert named == {volume["name"] for volume in pod["volumes"]} and told["kind"] == "Job"
    else:
        sky = pytest.importorskip("sky", reason="SkyPilot is not installed; its own parser reads these files")
        assert sky.Task.from_yaml(str(path)).resources
