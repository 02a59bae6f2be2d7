"""Is what was asked for of a VE consistent?  vzcfgvalidate(8)'s rules, each with its reason and its cure.

Where a rule is about what a stock kernel only counts, it is a warning at most: nothing can fail for it here.  A
resource that was not asked for, or is unlimited, breaks no rule; vzcfgvalidate misses it, as OpenVZ needs them all.
Of its rules those are not here that no configuration breaks, as ve/limits.py takes none that would (a barrier above its
limit, a limit of what guarantees its barrier), nor that a barrier be the limit: here it is a warning, below it.
Nothing here asks a kernel or a file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ve.amounts import PAGE, UNLIMITED
from ve.beancounter import RESOURCES
from ve.limits import Limits

GUARANTEES = tuple(row.name for row in RESOURCES if row.guaranteed)
COUNTED = frozenset(row.name for row in RESOURCES if not row.enforced and not row.guaranteed)
BARRIER, LIMIT = range(2)


def is_vswap(settings: Limits) -> bool:
    """Is its memory limited as such, by physpages?  vzctl's test; INT_MAX is how 32-bit hosts wrote unlimited."""
    return limit_of(settings, "physpages") not in (UNLIMITED, 2**31 - 1)


def limit_of(settings: Limits, name: str) -> int:
    """UNLIMITED too if it was not asked for."""
    return min(settings.bounds[name][LIMIT], UNLIMITED) if name in settings.bounds else UNLIMITED


def _value(settings: Limits, name: str, side: int) -> int | None:
    """None if it was not asked for, or all of it is unlimited, which is the same."""
    if name == "avnumproc" and name not in settings.bounds:  # how many processes there usually are: vzctl takes half
        most = limit_of(settings, "numproc")
        return most // 2 if most < UNLIMITED else None
    bound = settings.bounds.get(name)
    if bound is None or (min(bound) >= UNLIMITED and name not in GUARANTEES):
        return None
    return min(bound[side], UNLIMITED)


# --- is it consistent -----------------------------------------------------------------------------------------------

ERROR, WARNING = "error", "warning"
_PROCESS = 40 << 10  # bytes of kernel memory that a process takes, by vzcfgvalidate
_TERM = re.compile(r"(?:(\d+)\*)?([a-z]+)\.([bl])|(\d+)")


@dataclass(frozen=True)
class Problem:
    """A rule that a configuration breaks.

    severity: ERROR if it cannot do what was asked for, WARNING if it does, but not as one would think.  rule has the
    numbers put in, reason says why there is that rule, cure is the option that mends it, and bound what that sets.  A
    cure may break another rule, of a resource that depends on this one: the next check says so.
    """

    resource: str
    severity: str
    rule: str
    reason: str
    cure: str
    bound: tuple[int, int]


class Term(NamedTuple):
    """So many times the barrier or limit of a resource; or a plain number, which has no name."""

    factor: int
    name: str = ""
    side: int = LIMIT


@dataclass(frozen=True)
class Rule:
    """A row of RULES: NAME.SIDE >= TERM + ..., or <=; a side is b or l, as in vzlist's fields.

    vswap: only for configurations that are, or are not; None for all.
    """

    formula: str
    severity: str
    reason: str
    vswap: bool | None = None

    @cached_property
    def left(self) -> Term:
        return _term(self.formula.split()[0])

    @cached_property
    def at_least(self) -> bool:
        return self.formula.split()[1] == ">="

    @cached_property
    def right(self) -> tuple[Term, ...]:
        return tuple(_term(word) for word in self.formula.split()[2::2])

    def problem(self, settings: Limits) -> Problem | None:
        """What is wrong, if it is."""
        have, need = _value(settings, *self.left[1:]), self._need(settings)
        if have is None or need is None or self._unasked(have) or self.vswap not in (None, is_vswap(settings)):
            return None
        if have >= need if self.at_least else have <= need:
            return None
        name, bound = self.left.name, self._mended(settings, need)
        counted = [each for each in dict.fromkeys((name, *(term.name for term in self.right))) if each in COUNTED]
        verb = "is" if len(counted) == 1 else "are"
        note = f"; {' and '.join(counted)} {verb} only counted here, so that nothing fails for it" if counted else ""
        cure = f"--{name} {_text(bound[BARRIER])}:{_text(bound[LIMIT])}"
        severity = WARNING if counted else self.severity
        return Problem(name, severity, self._sentence(settings, have, need), self.reason + note, cure, bound)

    def _need(self, settings: Limits) -> int | None:
        """What the right side comes to; None if a part of it was not asked for, so that there is nothing to need."""
        total = 0
        for factor, name, side in self.right:
            value = _value(settings, name, side) if name else 1
            if value is None or value >= UNLIMITED:
                return None
            total += factor * value
        return min(total, UNLIMITED)

    def _unasked(self, have: int) -> bool:
        """A barrier that is to be higher but is none, as 0 is; or no limit."""
        none = (0, UNLIMITED) if self.left.side == BARRIER and self.at_least else ()
        return have in none or (self.left.side == LIMIT and have >= UNLIMITED)

    def _mended(self, settings: Limits, need: int) -> tuple[int, int]:
        name, side = self.left.name, self.left.side
        barrier, limit = settings.bounds[name]
        if side == LIMIT:
            by_barrier = any(term[1:] == (name, BARRIER) for term in self.right)  # which stays, or there is no end
            return need if barrier == limit and not by_barrier else min(barrier, need), need
        if barrier < need and name in COUNTED:  # the distance to the limit is worth keeping
            limit = min(limit + need - barrier, UNLIMITED)
        return need, max(limit, need)

    def _sentence(self, settings: Limits, have: int, need: int) -> str:
        relation = "at least" if self.at_least else "at most"
        begin = f"{_phrase(self.left)} ({_text(have)}) must be"
        if need >= UNLIMITED:
            return f"{begin} unlimited"
        words = [self._words(settings, term) for term in self.right]
        plain = len(words) == 1 and self.right[0].factor in (1, need)
        return f"{begin} {relation} {' + '.join(words)}" + ("" if plain else f" = {need}")

    def _words(self, settings: Limits, term: Term) -> str:
        if not term.name:
            return str(term.factor)
        times = f"{term.factor} x " if term.factor != 1 else ""
        return f"{times}{_phrase(term, self.left.name)} ({_value(settings, term.name, term.side)})"


def _term(word: str) -> Term:
    found = _TERM.fullmatch(word)
    assert found, word
    factor, name, side, number = found.groups()
    return Term(int(number)) if number else Term(int(factor or 1), name, "bl".index(side))


def _phrase(term: Term, of: str = "") -> str:
    if term.name == "avnumproc":
        return term.name
    side = ("barrier", "limit")[term.side]
    return f"its {side}" if term.name == of else f"the {side} of {term.name}"


def _text(value: int) -> str:
    return "unlimited" if value >= UNLIMITED else str(value)


_STALL = "a connection must be able to send one packet whatever others hold, or it stalls without an error"
_WINDOW = "each TCP connection needs one window, or it is slow"
_DATAGRAM = "a datagram that finds no room is lost; vzcfgvalidate recommends 132096"
_ALL_OF_IT = "no VE gets more than its memory and swap, so that what is guaranteed above that is never given"
_FILES = "a process that cannot open a file fails in the middle of its work, and not where it was started"

# vzcfgvalidate's, and behind them those that follow from how cgroup v2 does it.
RULES = (
    Rule(
        "physpages.b <= 0",
        WARNING,
        "above memory.high the kernel slows a VE down and never refuses: without a limit that has no end",
        vswap=False,
    ),
    Rule("dcachesize.l >= 384*numfile.l", WARNING, "an open file keeps a dentry and an inode, 384 bytes at least"),
    Rule(
        f"kmemsize.b >= {_PROCESS}*avnumproc.l + dcachesize.l",
        ERROR,
        "else programs fail in the middle of their work, before numproc refuses them a process",
    ),
    Rule("privvmpages.b >= vmguarpages.b", WARNING, "a guarantee is worth nothing where less may be allocated"),
    Rule("tcpsndbuf.l >= tcpsndbuf.b + 2560*numtcpsock.l", ERROR, _STALL),
    Rule("othersockbuf.l >= othersockbuf.b + 2560*numothersock.l", ERROR, _STALL),
    Rule("tcprcvbuf.l >= tcprcvbuf.b + 2560*numtcpsock.l", WARNING, _STALL),
    Rule("tcprcvbuf.b >= 65536", WARNING, _WINDOW),
    Rule("tcpsndbuf.b >= 65536", WARNING, _WINDOW),
    Rule("dgramrcvbuf.b >= 32768", WARNING, _DATAGRAM),
    Rule("othersockbuf.b >= 32768", WARNING, _DATAGRAM),
    Rule("numfile.l >= 32*avnumproc.l", WARNING, _FILES),
    Rule("numfile.l >= numtcpsock.l + numothersock.l + numpty.l", WARNING, "each socket and terminal is a file too"),
    *(Rule(f"{name}.b <= physpages.l + swappages.l", ERROR, _ALL_OF_IT) for name in GUARANTEES),
    Rule(
        "privvmpages.l >= physpages.l + swappages.l",
        WARNING,
        "a limit of private memory takes from memory.max and memory.swap.max: the VE never gets all of these",
    ),
    Rule(
        "shmpages.l <= physpages.l + swappages.l",
        WARNING,
        "shared memory lies in memory or swap: above these it is not refused (ENOSPC), but something is killed",
    ),
    Rule("lockedpages.l <= physpages.l", WARNING, "above memory mlock(2) is not refused, but something is killed"),
    Rule(
        f"physpages.l >= {-(-_PROCESS // PAGE)}*avnumproc.l",
        WARNING,
        "the kernel's own memory of so many processes counts too: something is killed before numproc refuses",
    ),
)


def problems(settings: Limits) -> list[Problem]:
    """What is wrong with a configuration, in the order of RULES; none if it is consistent."""
    return [found for rule in RULES if (found := rule.problem(settings))]
