"Damage to a finished run: each is found by the next `disti pipeline` and mended, and the result is the same."

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks.tally import FULL
from conftest import BIN, call

from disti.manifests import content, hashes, manifest_path, stamped
from disti.recount import main as verify


def files_of(home: Path) -> list[Path]:
    "Every file that a manifest of the run answers for."
    return [(each / name if each.is_dir() else each) for each in stamped(home) for name in hashes(each)]


def late(path: Path) -> bool:
    "Is it of a job behind which few others run? What is found is found in the same way everywhere."
    return bool({"results", "gap", "case-study", "student-score", "small-labels"} & set(path.parts))


def delete(path: Path, rng: random.Random, home: Path) -> None:
    path.unlink()


def delete_both(path: Path, rng: random.Random, home: Path) -> None:
    "A result with its manifest."
    result = next(each for each in stamped(home) if path == each or each in path.parents)
    shutil.rmtree(result) if result.is_dir() else result.unlink()
    manifest_path(result).unlink()


def truncate(path: Path, rng: random.Random, home: Path) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def alter(path: Path, rng: random.Random, home: Path) -> None:
    "One digit, or one bit where there is none; of the same length and with the old date."
    raw, stat = bytearray(path.read_bytes()), path.stat()
    digits = [found.start() for found in re.finditer(rb"\d", raw[:100_000])]
    at = rng.choice(digits) if digits else rng.randrange(len(raw))
    raw[at] = raw[at] ^ 1
    shutil.copyfile(path, path.with_name(path.name + ".new"))  # a new file: a link to the old one stays as it was
    path.with_name(path.name + ".new").write_bytes(raw)
    path.with_name(path.name + ".new").replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def swap(path: Path, rng: random.Random, home: Path) -> None:
    "With another file of its folder."
    other = rng.choice([each for each in files_of(home) if each != path and content(each) != content(path)])
    aside = path.with_name("aside")
    path.replace(aside)
    other.replace(path)
    aside.replace(other)


def old_copy(path: Path, rng: random.Random, home: Path) -> None:
    "What the file may have been last week, with last week's date."
    old = path.read_bytes()[: path.stat().st_size // 2] + b" " + path.read_bytes()[path.stat().st_size // 2 :]
    path.unlink()
    path.write_bytes(old)
    os.utime(path, (1.7e9, 1.7e9))


def torn_manifest(path: Path, rng: random.Random, home: Path) -> None:
    result = next(each for each in stamped(home) if path == each or each in path.parents)
    os.truncate(manifest_path(result), 40)


KINDS: list[Callable] = [delete, truncate, alter, swap, old_copy, delete_both, torn_manifest]


def pipeline() -> str:
    done = call(BIN / "disti", "pipeline", "recipes/demo.yaml", "--set", "scale=smoke", "run=smoke", timeout=1500)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def state(home: Path) -> dict[str, str]:
    "What the run holds, but for pages and histories, which tell times and findings."
    found = [each for each in stamped(home) if not each.name.endswith((".html", ".history.jsonl"))]
    return {str(each.relative_to(home)): content(each) for each in found}


@pytest.mark.slow
def test_random_damage_is_found_and_mended(stage_files: Path, tally) -> None:
    "Ten, anywhere, each on its own with a run between; or three kinds at once, where little hangs on it."
    before, table = state(stage_files), (stage_files / "results" / "comparison.json").read_bytes()
    rng, lost, wrong_, tries = random.Random(7), 0, 0, 0
    rounds = [[kind] for kind in (KINDS + KINDS)[:10]] if FULL else [[alter, delete_both, torn_manifest]]
    for kinds in rounds:
        for kind in kinds:
            tries += 1
            kind(rng.choice([path for path in files_of(stage_files) if FULL or late(path)]), rng, stage_files)
        said = pipeline()
        lost += "nothing to do: every result is up to date" in said
        wrong_ += (stage_files / "results" / "comparison.json").read_bytes() != table
        wrong_ += sum(state(stage_files).get(name) != made for name, made in before.items())
        assert verify([str(stage_files)]) == 0
    tally("damage to a finished run", tries=tries, lost=lost, wrong=wrong_)
