"""`python -m tests.chaos`: the long run, its figures as a table and as one line of JSON."""

import argparse
import json
import sys
from dataclasses import asdict

from tests.chaos.harness import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    usual = Plan()
    parser.add_argument("--tasks", type=int, default=usual.tasks)
    parser.add_argument("--kills", type=int, default=usual.kills, help="at least so many")
    parser.add_argument("--workers", type=int, default=usual.workers)
    parser.add_argument("--lease", type=float, default=usual.lease, help="seconds")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--calls", type=float, default=usual.calls, help="share of the tasks that are ai_calls")
    options = parser.parse_args()
    figures = run(Plan(**vars(options)))
    for name, value in asdict(figures).items():
        if isinstance(value, dict):
            for place, count in value.items():
                print(f"  {place:<42} {count:>8}")
        else:
            print(f"{name.replace('_', ' '):<44} {value:>8}")
    print(json.dumps(asdict(figures)))
    print("sound" if figures.sound else "NOT SOUND", file=sys.stderr)
    return 0 if figures.sound else 1


if __name__ == "__main__":
    raise SystemExit(main())
