"""python -m bench [ROW ...]: measure these rows of bench/rows.py, or all, and print the table.

All is measured inside of bench/place.py, which this runs itself in.
"""

import argparse
import json
import sys
from pathlib import Path

from bench import place

PROFILE = "profile"  # what may be asked for beside the rows


def main() -> int:
    words = sys.argv[1:]
    options = _parser().parse_args(words)
    if not options.inside:
        return place.inside(words)
    from bench import quick  # what is below imports ve, which is to see the place, not the machine

    place.arrange(Path(options.inside))
    return quick.main(options) if options.quick else measured(options)


def measured(options: argparse.Namespace) -> int:
    from bench import machine, profile, report
    from bench.ground import Ground
    from bench.rows import ROUTED, ROWS, VEID

    wanted = options.rows or [row.name for row in ROWS]
    if unknown := set(wanted) - {PROFILE, *(row.name for row in ROWS)}:
        print(f"bench: there is no row {', '.join(unknown)}", file=sys.stderr)
        return 2
    work = Path(options.inside)
    ground = Ground(work, options.rounds, options.few, options.many)
    load = [machine.load()]
    found, failed = {}, []
    with ground.held:
        for row in ROWS:
            if row.name in wanted:
                print(f"==> {row.name}: {row.what}", file=sys.stderr, flush=True)
                try:
                    found[row.name] = row.measure(ground)
                except RuntimeError as error:  # the others are worth having
                    print(f"bench: {error}", file=sys.stderr)
                    failed.append(row.name)
        selftest = ground.ours.selftest(VEID, ROUTED)
        profiles = profile.made(ground, VEID, ROUTED) if not options.rows or PROFILE in options.rows else {}
    results = {
        "machine": machine.described(work),
        "load": [*load, machine.load()],
        **{name: getattr(options, name) for name in ("rounds", "few", "many")},
        "selftest": selftest,
        "rows": found,
        "profile": profiles,
    }
    print(report.table(results))
    for rows in profiles.values():
        print(f"\n{profile.table(rows)}")
    print(f"\nve selftest: {selftest}; load {' to '.join(results['load'])}")
    if failed:
        print(f"bench: not measured: {', '.join(failed)}", file=sys.stderr)
    elif options.results:
        Path(options.results).write_text(json.dumps(results, indent=1) + "\n")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of bench/rows.py; all if none is named")
    parser.add_argument("--rounds", type=int, default=30, help="how often each contender is taken, at each pace")
    parser.add_argument("--few", type=int, default=250, help="how many containers the smaller crowds have")
    parser.add_argument("--many", type=int, default=1000, help="and the larger ones")
    parser.add_argument("--results", metavar="FILE", help="where the results go, as JSON")
    parser.add_argument("--quick", action="store_true", help="count system calls instead")
    parser.add_argument(
        "--others", type=int, nargs="*", default=[10, 100], help="how many VEs run beside, with --quick"
    )
    parser.add_argument("--inside", metavar="DIRECTORY", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
