"""The hosts file of a pool whose VEs find each other by name: a line for each that runs.

    /run/ve/network/hosts/<POOL>/hosts      what they read
    /run/ve/network/hosts/<POOL>.lock

A VE sees the directory, read only, and its /etc/hosts is a link into that.  So the file can be replaced whole, and who
reads it finds the old one or the new: a file that is bound itself would stay the old one for ever, and one that is
written in place could be read half written.  The lock is not in there, or a VE could hold it.
"""

import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address

from ve import lock, netdir, pool
from ve.addresses import Address
from ve.wholefile import read_small, write_whole, writing

NAME = "hosts"
_LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_LOOKED_AT = 16  # lines, by each start
_HINT = "it is in the run directory: is that on a read-only file system?"


def directory(name: str) -> str:
    """Of the pool of this name, for VEs to see; made if it is missing."""
    path = os.path.join(netdir.run_directory(), NAME, name)
    with writing(path, _HINT):
        os.makedirs(path, 0o755, exist_ok=True)
        os.chmod(path, 0o755)  # a VE's users are none of ours
    return path


def update(name: str, lines: Mapping[Address, str], is_leased: Callable[[Address], object]) -> None:
    """Let the VEs of a pool know of these, and no longer of those, among a few, whose address nobody has.

    Those are VEs that have ended by themselves.  A few are looked at each time, any of them, so that a start costs the
    same beside two thousand.  That is asked under the lock: who has an address writes its line once it has it, so what
    is not leased now is nobody's, and whose line is there already is leased.  Locked after ten seconds.
    """
    with _changing(name) as known:
        for address in random.sample([*known], min(_LOOKED_AT, len(known))):
            if not is_leased(ip_address(address)):
                del known[address]
        known |= {str(address): names for address, names in lines.items()}


def forget(address: Address, is_leased: Callable[[Address], object] = lambda address: False) -> None:
    """Let no name lead to this address in any pool, unless somebody has it by now; Locked as above.

    Where no pool has names that is one look at a directory.
    """
    with suppress(FileNotFoundError):
        for name in os.listdir(os.path.join(netdir.run_directory(), NAME)):
            if f"\n{address}\t".encode() in read_small(os.path.join(netdir.run_directory(), NAME, name, NAME)):
                with _changing(name) as known:
                    if not is_leased(address):
                        known.pop(str(address), None)


def clear(name: str) -> None:
    """Of a pool that is no more: a VE that was in it sees localhost still, and another pool of this name begins so."""
    if os.path.exists(os.path.join(netdir.run_directory(), NAME, name)):
        with _changing(name) as known:
            known.clear()


@contextmanager
def _changing(name: str) -> Iterator[dict[str, str]]:
    """The names of a pool by address, alone; what they are in the end is what VEs read."""
    path = os.path.join(directory(name), NAME)
    with writing(path, _HINT):
        fd = lock.acquire(f"{os.path.dirname(path)}.lock", f"the hosts of pool {name}", pool.PATIENCE)
        with lock.released(fd):
            before = read_small(path)
            known = _parse(before)
            yield known
            text = _LOCALHOST + "".join(f"{address}\t{names}\n" for address, names in known.items())
            if text.encode() != before:
                write_whole(path, text.encode(), 0o644, durable=False)


def _parse(text: bytes) -> dict[str, str]:
    """What we have written before, but for localhost: names by address."""
    found = {}
    for line in text.decode(errors="replace").removeprefix(_LOCALHOST).splitlines():
        address, _, names = line.partition("\t")
        with suppress(ValueError):  # which we have not written
            found[str(ip_address(address))] = names
    return found
