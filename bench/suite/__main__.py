"""python -m bench.suite [ve] [testcontainers]: run the suite with these, one after the other, and print the table.

Each runs twice: to its end, and once more until pytest is killed in the middle.  Both happen in bench/place.py.
"""

import argparse
import sys
from pathlib import Path

from bench import place

CONTENDERS = ("ve", "testcontainers")  # the keys of MAKERS, which only what is inside can import


def main() -> int:
    words = sys.argv[1:]
    options = parsed(words)
    if not options.inside:
        from tests import debian

        return place.inside([*words, "--archive", str(debian.postgresql())], "bench.suite")
    place.arrange(Path(options.inside))
    return measured(options)


def measured(options: argparse.Namespace) -> int:
    from bench import machine
    from bench.suite import table  # what is below imports ve, which is to see the place, not the machine
    from bench.suite.contenders import MAKERS
    from bench.suite.run import Run

    work, archive = Path(options.inside), Path(options.archive)
    run = Run(work, options.tests, options.workers)
    found, load = {}, machine.load()
    for name in options.contenders or CONTENDERS:
        print(f"==> {name}: {options.tests} tests, {options.workers} workers", file=sys.stderr, flush=True)
        contender = MAKERS[name](work, archive)
        try:
            contender.ready()
            run.whole(contender, options.workers)  # so that nothing is new to the one that counts
            found[name] = (run.whole(contender, options.tests), run.killed(contender))
        finally:
            contender.close()
    print(table.of(found))
    about = machine.described(work)
    print(f"\nload {load} to {machine.load()}, {about['CPUs']}, {about['kernel']}")
    return 0 if all(whole.passed == options.tests for whole, _ in found.values()) else 1


def parsed(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    options = parser.parse_args(words)
    if unknown := [name for name in options.contenders if name not in CONTENDERS]:
        parser.error(f"there is no contender {' '.join(unknown)}: it is {' or '.join(CONTENDERS)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.suite", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("contenders", nargs="*", metavar="CONTENDER", help=f"{' or '.join(CONTENDERS)}; both if none")
    parser.add_argument("--tests", type=int, default=200, help="how many there are")
    parser.add_argument("--workers", type=int, default=8, help="of pytest-xdist")
    parser.add_argument("--inside", metavar="DIRECTORY", help=argparse.SUPPRESS)
    parser.add_argument("--archive", metavar="FILE", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
