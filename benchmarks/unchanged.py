"""What it costs that nothing has changed, beside an empty Hydra application in the same run.

Builds the three digits variants once, then times, in turns so that drift meets all alike: the same
command again, ``--help``, and an empty Hydra application's single run and multirun of three jobs.
It prints medians and ratios as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.timing import EMPTY_HYDRA, ORCHESTRATE, Place, interleaved, machine, table

SWEEP: Final = ("-m", "precision=fp32,fp16,int8")
_UNIT: Final = "empty Hydra application"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="timings of each command")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        place = Place(folder=Path(name))
        (place.folder / "empty.py").write_text(EMPTY_HYDRA, encoding="utf-8")
        print("building the three variants once", file=sys.stderr, flush=True)
        cold = place.timed([*ORCHESTRATE, *SWEEP])
        empty = [sys.executable, "empty.py"]
        place.timed(ORCHESTRATE)  # composed for the first time
        commands = {
            "three variants, unchanged": [*ORCHESTRATE, *SWEEP],
            "the same, composed anew": [*ORCHESTRATE, "--fresh", *SWEEP],
            "one variant, unchanged": [*ORCHESTRATE],
            "plan of three variants": [*ORCHESTRATE, "plan", *SWEEP],
            "--help": [*ORCHESTRATE, "--help"],
            _UNIT: empty,
            "empty Hydra multirun of three": [*empty, "-m", "+n=1,2,3"],
        }
        spent = interleaved(place, commands, rounds)
    print(machine("hydra-core", "pydantic", "torch", "onnxruntime"))
    print(f"\nCold, three variants: {cold.wall_s:.1f} s (once). Medians of {rounds} rounds:\n")
    print(table(spent, _UNIT))


if __name__ == "__main__":
    main()
