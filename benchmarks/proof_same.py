"""How often is a setting proven to be better than itself? The demo's service and load, really measured.

    python benchmarks/proof_same.py                  100 proofs of 4 rounds each (two hours on two idle cores)
    python benchmarks/proof_same.py --proofs 10      a quick look
    python benchmarks/proof_same.py --folder AA      keeps its studies; started again, it goes on behind the last one

Winner and baseline are the same command line but for the limit of a cache that is never full (8192 against 8191 MiB), so
every gain that is found is false. `swarmtune optimizer` measures rounds of them as in any proof; each `--rounds` of them in
a row are judged by the product's own function. Beside that: as many rounds drawn at random, 20,000 times, which shows how
near the false gains are to the 2.5 % on either side that Student's t allows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np

from swarmtune.study.reader import reading
from swarmtune.tuner.proof.confirm import Observed, judge

MOST = 48  # rounds of a study: `confirm` takes at most 50
DRAWN = 20_000
SAME = """
[llamacpp]
others = "--n-parallel 16 --n-ctx 32768 --cache-ram $CACHE_MIB"
[[llamacpp.target_field]]
name = "cache_mib"
dtype = "enum"
dtype_param = [8192, 8191]
value = 8192
"""
Rounds = list[dict[int, Observed]]


def measured(folder: Path, rounds: int, seed: int) -> Rounds:
    """Rounds of a study of its own, measured now or earlier: the baseline is 0, the same under another name 1."""
    if not list(folder.glob("swarmtune-studies/*/report.json")):
        folder.mkdir(parents=True, exist_ok=True)
        demo = (files("swarmtune.apps.cli") / "embedded.toml").read_text()
        (folder / "config.toml").write_text(demo + SAME)
        arguments = ("--evaluations", "2", "--confirm", str(rounds), "--seed", str(seed))
        command = [sys.executable, "-m", "swarmtune", "optimizer", *arguments]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    (database,) = folder.glob("swarmtune-studies/*/study.db")
    found: dict[
        int, dict[str, dict[int, Observed]]
    ] = {}  # by round, and by its repeats: the last is the one that counts
    with reading(str(database)) as reader:
        (head,) = reader.heads()
        for attempt in reader.attempts(head.name):
            result = attempt.result
            if attempt.kind.startswith("prove:") and result and result.score and result.measurement:
                metrics, blocks = result.measurement.metrics, result.measurement.blocks["request_goodput"]
                correction = float(np.mean(blocks)) / metrics["request_goodput"]
                number = int(attempt.kind.split(":")[2])
                pair = found.setdefault(number, {}).setdefault(attempt.kind, {})
                pair[int(attempt.trial_number != 0)] = Observed(result.score, correction)
    last = [list(repeats.values())[-1] for _, repeats in sorted(found.items())]
    return [pair for pair in last if len(pair) == 2]


def is_better(rounds: Rounds) -> tuple[bool, bool]:
    """Does the proof find that 1 is better than 0, and that 0 is better than 1?"""
    turned: Rounds = [{0: pair[1], 1: pair[0]} for pair in rounds]
    first, second = (judge({}, seen, 0, 1, [1], "maximize").verdict.significant for seen in (rounds, turned))
    return first, second


def main() -> None:
    """Measure, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proofs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4, help="of each proof (default 4, as in the demo)")
    parser.add_argument("--folder", type=Path, help="where the studies stay; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        each, place, seed = arguments.rounds, arguments.folder or Path(temporary), 1
        wanted = arguments.proofs * each
        rounds: Rounds = []
        while len(rounds) < wanted:
            rounds += measured(place / str(seed), min(MOST, wanted - len(rounds)), seed)
            seed += 1
    proofs = [is_better(rounds[i : i + each]) for i in range(0, wanted, each)]
    rng = np.random.default_rng(0)
    drawn = [is_better([rounds[i] for i in rng.choice(len(rounds), each, replace=False)])[0] for _ in range(DRAWN)]
    values = [np.log(pair[1].value or np.nan) - np.log(pair[0].value or np.nan) for pair in rounds]
    print(f"{len(rounds)} rounds; the gain of one spreads by {100 * np.std(values, ddof=1):.1f} %")
    print(
        f"{len(proofs)} proofs: {sum(p[0] for p in proofs)} false gains, {sum(p[1] for p in proofs)} the other way round"
    )
    print(f"{each} rounds drawn at random, {DRAWN:,} times: {np.mean(drawn):.1%} false gains")


if __name__ == "__main__":
    main()
