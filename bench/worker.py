"""A warm process that uses the library: `python -m bench.worker STATE_DIR [MIB THREADS]`.

Each line of standard input is an operation of OPERATIONS and its words, and is answered by the milliseconds it took, as
it is seen by who makes the call.  With MIB it has touched as much memory, with THREADS as many threads wait.
"""

import sys
import threading
import time
from collections.abc import Callable

import ve


def life(host: ve.Host, template: str, *addresses: str) -> None:
    """An ephemeral VE, its init that of the template, which ends by itself; gone when this returns."""
    with host.ephemeral(template, addresses=addresses) as env:
        code = env.wait()
    if code:
        raise SystemExit(f"bench: init ended with {code}")


def fork_life(host: ve.Host, veid: str, snapshot: str) -> None:
    """The same, made on a snapshot."""
    with host.ephemeral(_of(host, veid).snapshot(snapshot)) as env:
        code = env.wait()
    if code:
        raise SystemExit(f"bench: init ended with {code}")


def throw_away(host: ve.Host, template: str, *addresses: str) -> None:
    """The same, but `true` runs under the small init."""
    with host.ephemeral(template, command=("true",), addresses=addresses) as env:
        env.wait()


def run(host: ve.Host, veid: str, *command: str) -> None:
    _of(host, veid).run(command, check=True)


def start(host: ve.Host, veid: str) -> None:
    _of(host, veid).start()


def create(host: ve.Host, veid: str, template: str, *addresses: str) -> None:
    host.create(int(veid), template=template, addresses=addresses)


def stop(host: ve.Host, veid: str) -> None:
    _of(host, veid).stop(fast=True)


def destroy(host: ve.Host, veid: str) -> None:
    _of(host, veid).destroy()


OPERATIONS: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (life, fork_life, throw_away, run, create, start, stop, destroy)
}
_known: dict[str, ve.Environment] = {}


def _of(host: ve.Host, veid: str) -> ve.Environment:
    """A program keeps the object of a VE that it uses again."""
    if veid not in _known:
        _known[veid] = host.get(int(veid))
    return _known[veid]


def main(state_dir: str, mib: int = 0, threads: int = 0) -> None:
    touched = bytearray(mib << 20)
    for page in range(0, len(touched), 4096):
        touched[page] = 1
    for _ in range(threads):
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    host = ve.Host(state_dir)
    for line in sys.stdin:
        name, *words = line.split()
        begun = time.perf_counter()
        OPERATIONS[name](host, *words)
        print((time.perf_counter() - begun) * 1000, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
