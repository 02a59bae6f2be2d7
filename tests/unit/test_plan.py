"""Planning: the numbers were worked out by hand, from the formulas of vzctl's sources and from its sample files."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ve import presets
from ve.amounts import Bound
from ve.consistency import COUNTED, ERROR, RULES, WARNING, Problem, is_vswap, problems
from ve.errors import BrokenConfig, InvalidValue
from ve.hardware import Host
from ve.limits import Limits, resolve
from ve.plan import CHECKS, GUARANTEED, HELD, LIMITED, WHY, Sum, oversold, split

UNLIMITED = 9223372036854775807
PAGE = os.sysconf("SC_PAGE_SIZE")
PROCESS = -(-40960 // PAGE)  # pages; 10 of 4 KB
GB = 1 << 30

# vzctl's etc/conf/ve-basic.conf-sample and ve-light.conf-sample, those for x86_64.
BASIC = {
    "kmemsize": (14372700, 14790164),
    "lockedpages": (2048, 2048),
    "privvmpages": (65536, 69632),
    "shmpages": (21504, 21504),
    "numproc": (240, 240),
    "physpages": (0, UNLIMITED),
    "vmguarpages": (33792, UNLIMITED),
    "oomguarpages": (26112, UNLIMITED),
    "numtcpsock": (360, 360),
    "numflock": (188, 206),
    "numpty": (16, 16),
    "numsiginfo": (256, 256),
    "tcpsndbuf": (1720320, 2703360),
    "tcprcvbuf": (1720320, 2703360),
    "othersockbuf": (1126080, 2097152),
    "dgramrcvbuf": (262144, 262144),
    "numothersock": (360, 360),
    "dcachesize": (3409920, 3624960),
    "numfile": (9312, 9312),
    "avnumproc": (180, 180),
    "numiptent": (128, 128),
    "diskspace": (2 * GB, 2362232012),
    "diskinodes": (131072, 144179),
}
LIGHT = {
    "avnumproc": (15, 15),
    "numproc": (40, 40),
    "numtcpsock": (40, 40),
    "numothersock": (40, 40),
    "vmguarpages": (1725, UNLIMITED),
    "kmemsize": (1131520, 1200742),
    "tcpsndbuf": (159744, 262144),
    "tcprcvbuf": (159744, 262144),
    "othersockbuf": (61440, 163840),
    "dgramrcvbuf": (32768, 32768),
    "oomguarpages": (1725, UNLIMITED),
    "lockedpages": (4, 4),
    "shmpages": (1152, 1152),
    "privvmpages": (7680, 8448),
    "numfile": (512, 512),
    "numflock": (50, 60),
    "numpty": (4, 4),
    "numsiginfo": (256, 256),
    "dcachesize": (196608, 202752),
    "physpages": (0, UNLIMITED),
    "numiptent": (16, 16),
}
VSWAP = {"physpages": (0, 131072), "swappages": (0, 262144)}  # ve-vswap-512m.conf-sample, in pages of 4 KB
EQUAL = ("numproc", "numtcpsock", "numothersock", "shmpages", "numfile", "numpty", "numsiginfo", "numiptent")


def asked(bounds: Mapping[str, tuple[int, int]] | None = None, others: Mapping[str, Any] | None = None) -> Limits:
    return Limits({name: Bound(*bound) for name, bound in (bounds or {}).items()}, others or {})


def wrong(bounds: Mapping[str, tuple[int, int]]) -> list[Problem]:
    return problems(asked(bounds))


def mended(bounds: Mapping[str, tuple[int, int]], problem: Problem) -> dict[str, tuple[int, int]]:
    return {**bounds, problem.resource: problem.bound}


# ---- is it consistent -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [BASIC, LIGHT, VSWAP, {}], ids=["basic", "light", "vswap", "nothing"])
def test_a_sample_is_consistent(sample: dict[str, tuple[int, int]]) -> None:
    assert wrong(sample) == []


# Of basic, what is changed; what that breaks and how bad it is; the sentence, and the cure.
BROKEN: dict[str, tuple[dict[str, tuple[int, int]], str, str, str]] = {
    "physpages.b <= 0": (
        {"physpages": (1, UNLIMITED)},
        WARNING,
        "the barrier of physpages (1) must be at most 0",
        "--physpages 0:unlimited",
    ),
    "dcachesize.l >= 384*numfile.l": (  # 384 x 9440 = 3624960, the limit that there is
        {"numfile": (9441, 9441)},
        WARNING,
        "the limit of dcachesize (3624960) must be at least 384 x the limit of numfile (9441) = 3625344",
        "--dcachesize 3409920:3625344",
    ),
    "kmemsize.b >= 40960*avnumproc.l + dcachesize.l": (  # 40960 x 180 + 3624960
        {"kmemsize": (10997759, 14790164)},
        WARNING,
        "the barrier of kmemsize (10997759) must be at least "
        "40960 x avnumproc (180) + the limit of dcachesize (3624960) = 10997760",
        "--kmemsize 10997760:14790165",
    ),
    "privvmpages.b >= vmguarpages.b": (
        {"vmguarpages": (65537, UNLIMITED)},
        WARNING,
        "the barrier of privvmpages (65536) must be at least the barrier of vmguarpages (65537)",
        "--privvmpages 65537:69632",
    ),
    "tcpsndbuf.l >= tcpsndbuf.b + 2560*numtcpsock.l": (  # 2560 x 360 = 921600
        {"tcpsndbuf": (1720320, 2641919)},
        WARNING,
        "the limit of tcpsndbuf (2641919) must be at least "
        "its barrier (1720320) + 2560 x the limit of numtcpsock (360) = 2641920",
        "--tcpsndbuf 1720320:2641920",
    ),
    "tcprcvbuf.l >= tcprcvbuf.b + 2560*numtcpsock.l": (
        {"tcprcvbuf": (1720320, 2641919)},
        WARNING,
        "the limit of tcprcvbuf (2641919) must be at least "
        "its barrier (1720320) + 2560 x the limit of numtcpsock (360) = 2641920",
        "--tcprcvbuf 1720320:2641920",
    ),
    "othersockbuf.l >= othersockbuf.b + 2560*numothersock.l": (
        {"othersockbuf": (1126080, 2047679)},
        WARNING,
        "the limit of othersockbuf (2047679) must be at least "
        "its barrier (1126080) + 2560 x the limit of numothersock (360) = 2047680",
        "--othersockbuf 1126080:2047680",
    ),
    "tcprcvbuf.b >= 65536": (
        {"tcprcvbuf": (65535, 2703360)},
        WARNING,
        "the barrier of tcprcvbuf (65535) must be at least 65536",
        "--tcprcvbuf 65536:2703361",
    ),
    "tcpsndbuf.b >= 65536": (
        {"tcpsndbuf": (65535, 2703360)},
        WARNING,
        "the barrier of tcpsndbuf (65535) must be at least 65536",
        "--tcpsndbuf 65536:2703361",
    ),
    "dgramrcvbuf.b >= 32768": (
        {"dgramrcvbuf": (32767, 262144)},
        WARNING,
        "the barrier of dgramrcvbuf (32767) must be at least 32768",
        "--dgramrcvbuf 32768:262145",
    ),
    "othersockbuf.b >= 32768": (
        {"othersockbuf": (32767, 2097152)},
        WARNING,
        "the barrier of othersockbuf (32767) must be at least 32768",
        "--othersockbuf 32768:2097153",
    ),
    "numfile.l >= 32*avnumproc.l": (
        {"numfile": (5759, 5759)},
        WARNING,
        "the limit of numfile (5759) must be at least 32 x avnumproc (180) = 5760",
        "--numfile 5760:5760",
    ),
    "numfile.l >= numtcpsock.l + numothersock.l + numpty.l": (
        {"numfile": (735, 735), "avnumproc": (20, 20)},
        WARNING,
        "the limit of numfile (735) must be at least "
        "the limit of numtcpsock (360) + the limit of numothersock (360) + the limit of numpty (16) = 736",
        "--numfile 736:736",
    ),
    "vmguarpages.b <= physpages.l + swappages.l": (
        {"physpages": (0, 26000), "swappages": (0, 7000)},
        ERROR,
        "the barrier of vmguarpages (33792) must be at most "
        "the limit of physpages (26000) + the limit of swappages (7000) = 33000",
        "--vmguarpages 33000:unlimited",
    ),
    "oomguarpages.b <= physpages.l + swappages.l": (
        {"physpages": (0, 26000), "swappages": (0, 111), "vmguarpages": (0, UNLIMITED)},
        ERROR,
        "the barrier of oomguarpages (26112) must be at most "
        "the limit of physpages (26000) + the limit of swappages (111) = 26111",
        "--oomguarpages 26111:unlimited",
    ),
    "privvmpages.l >= physpages.l + swappages.l": (
        {"physpages": (0, 60000), "swappages": (0, 9633)},
        WARNING,
        "the limit of privvmpages (69632) must be at least "
        "the limit of physpages (60000) + the limit of swappages (9633) = 69633",
        "--privvmpages 65536:69633",
    ),
    "shmpages.l <= physpages.l + swappages.l": (
        {"physpages": (0, 34000), "swappages": (0, 0), "shmpages": (34001, 34001)},
        WARNING,
        "the limit of shmpages (34001) must be at most "
        "the limit of physpages (34000) + the limit of swappages (0) = 34000",
        "--shmpages 34000:34000",
    ),
    "lockedpages.l <= physpages.l": (
        {"physpages": (0, 34000), "lockedpages": (34001, 34002)},
        WARNING,
        "the limit of lockedpages (34002) must be at most the limit of physpages (34000)",
        "--lockedpages 34000:34000",
    ),
    f"physpages.l >= {PROCESS}*avnumproc.l": (
        {"physpages": (0, 180 * PROCESS - 1), "lockedpages": (1, 1)},
        WARNING,
        f"the limit of physpages ({180 * PROCESS - 1}) must be at least {PROCESS} x avnumproc (180) = {180 * PROCESS}",
        f"--physpages 0:{180 * PROCESS}",
    ),
}


def test_each_rule_is_broken_below() -> None:
    assert BROKEN.keys() == {rule.formula for rule in RULES}


@pytest.mark.parametrize("formula", BROKEN)
def test_a_rule_that_is_broken_alone_is_named_alone(formula: str) -> None:
    changed, severity, sentence, cure = BROKEN[formula]
    bounds = BASIC | changed
    (problem,) = wrong(bounds)
    reason = next(rule.reason for rule in RULES if rule.formula == formula)
    assert (problem.severity, problem.rule, problem.cure) == (severity, sentence, cure)
    assert problem.reason.startswith(reason)
    assert f"--{problem.resource} " in cure + " "
    assert wrong(mended(bounds, problem)) == []


def test_what_is_only_counted_is_a_beancounter() -> None:
    assert BASIC.keys() >= COUNTED


def test_a_rule_about_what_is_only_counted_says_so() -> None:
    (problem,) = wrong({"dcachesize": (1, 1), "numfile": (10, 10)})
    assert problem.reason.endswith("; dcachesize and numfile are only counted here, so that nothing fails for it")
    (problem,) = wrong(VSWAP | {"shmpages": (1, 500000)})
    assert "counted" not in problem.reason


def test_processes_are_usually_half_as_many_as_there_may_be() -> None:
    at_most = {"numproc": (361, 361), "numfile": (32 * 180, 32 * 180)}
    assert wrong(at_most) == []
    assert [each.resource for each in wrong(at_most | {"numproc": (362, 362)})] == ["numfile"]


def test_a_barrier_that_is_raised_above_the_limit_takes_it_along() -> None:
    (problem,) = wrong(BASIC | {"vmguarpages": (69633, UNLIMITED)})
    assert problem.cure == "--privvmpages 69633:69633"


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("barrier", [0, 4, 5])
def test_a_barrier_below_the_limit_is_as_it_should_be(name: str, barrier: int) -> None:
    """To OpenVZ the barrier is what refuses; to take it away would be no cure."""
    assert wrong({name: (barrier, 5)}) == []


@pytest.mark.parametrize("unlimited", [{}, {"numfile": (UNLIMITED, UNLIMITED)}], ids=["unasked", "unlimited"])
def test_what_is_unlimited_needs_nothing(unlimited: dict[str, tuple[int, int]]) -> None:
    rest = {name: bound for name, bound in BASIC.items() if name != "numfile"}
    assert wrong({**rest, **unlimited}) == []
    assert wrong(dict.fromkeys(BASIC.keys() - {"vmguarpages", "oomguarpages"}, (UNLIMITED, UNLIMITED))) == []


@pytest.mark.parametrize(
    "bounds", [VSWAP | {"lockedpages": (5, UNLIMITED)}, {"numfile": (5, UNLIMITED), "dcachesize": (1, 1)}]
)
def test_a_barrier_without_a_limit_is_no_limit(bounds: dict[str, tuple[int, int]]) -> None:
    assert wrong(bounds) == []


def test_an_unlimited_guarantee_is_more_than_any_memory() -> None:
    (problem,) = wrong(VSWAP | {"vmguarpages": (UNLIMITED, UNLIMITED)})
    assert (problem.severity, problem.bound) == (ERROR, (393216, UNLIMITED))


@pytest.mark.parametrize(("limit", "vswap"), [(131072, True), (UNLIMITED, False), (2147483647, False)])
def test_a_configuration_is_vswap_if_its_memory_is_limited(limit: int, vswap: bool) -> None:
    assert is_vswap(asked({"physpages": (0, limit)})) is vswap
    assert not is_vswap(asked())


NUMBERS = st.integers(0, 10**7) | st.sampled_from([0, 1, 2**31 - 1, 2**62, UNLIMITED - 1, UNLIMITED])
CONFIGURATIONS = st.dictionaries(st.sampled_from([*BASIC, "swappages"]), st.tuples(NUMBERS, NUMBERS))


@given(CONFIGURATIONS)
def test_what_is_only_counted_is_no_error(bounds: dict[str, tuple[int, int]]) -> None:
    for problem in wrong(bounds):
        assert problem.severity == WARNING or problem.resource not in COUNTED
        assert problem.bound != bounds[problem.resource]
        assert all(0 <= number <= UNLIMITED for number in problem.bound)


@given(CONFIGURATIONS)
@example({"numtcpsock": (0, 1), "tcpsndbuf": (4, 4)})  # whose limit is to be above its own barrier
def test_cure_after_cure_makes_any_configuration_consistent(bounds: dict[str, tuple[int, int]]) -> None:
    for _ in range(3 * len(RULES)):
        found = wrong(bounds)
        if not found:
            return
        bounds = mended(bounds, found[0])
    raise AssertionError(found)


# ---- a part of a host -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of 4 KB, of which the numbers are."""
    monkeypatch.setattr("ve.plan.PAGE", 4096)


@pytest.mark.usefixtures("small_pages")
def test_a_host_of_8_gb_in_four() -> None:
    """8 GB less a tenth are 7730941133 bytes, 1932735283 for each; of 32768 pids 29492 are for VEs."""
    assert split(8 * GB, 2 * GB, 4, 100 * GB, 4) == asked(
        {
            "physpages": (0, 471859),
            "swappages": (0, 131072),
            "numproc": (7373, 7373),
            "shmpages": (235929, 235929),
            "numpty": (512, 512),
            "numsiginfo": (3686, 3686),
        },
        {"cpu_weight": 100, "cpus": 0.9, "disk": 24159191040, "inodes": 1474560},
    )


@pytest.mark.usefixtures("small_pages")
def test_a_small_host_keeps_more_than_a_tenth() -> None:
    """512 MB less 256, in eight: 32 MB for each, and so 256 threads; CPU caps of 0.11 for each are just useful."""
    assert split(512 << 20, 1 * GB, 1, None, 8) == asked(
        {
            "physpages": (0, 8192),
            "swappages": (0, 8192),
            "numproc": (256, 256),
            "shmpages": (4096, 4096),
            "numpty": (25, 25),
            "numsiginfo": (256, 256),
        },
        {"cpu_weight": 100, "cpus": 0.11},
    )


def test_no_cap_where_it_would_be_a_standstill() -> None:
    assert split(64 * GB, 0, 2, None, 18).others == {"cpu_weight": 100, "cpus": 0.1}
    assert split(64 * GB, 0, 2, None, 19).others == {"cpu_weight": 100}


@pytest.mark.parametrize(
    ("host", "n", "why"),
    [
        ((512 << 20, 0, 1, None), 17, "for want of memory it takes 16 at most"),
        ((200 << 20, 0, 1, None), 1, "for want of memory it takes 0 at most"),
        ((999 * GB, 0, 1, None), 984, "for want of processes it takes 983 at most"),
        ((999 * GB, 0, 1, 2 * GB), 5, "for want of disk it takes 4 at most"),
        ((999 * GB, 0, 1, None), 0, "it is not a number of VEs"),
        ((999 * GB, 0, 1, None), -1, "it is not a number of VEs"),
    ],
)
def test_more_ves_than_fit_are_refused(host: tuple[int, int, float, int | None], n: int, why: str) -> None:
    with pytest.raises(InvalidValue, match=f"^cannot split this host in {n}: {why}$"):
        split(*host, n)
    if n > 1:
        assert problems(split(*host, n - 1)) == []


HOSTS = st.builds(
    Host,
    memory=st.integers(300 << 20, 1 << 44),
    swap=st.integers(0, 1 << 42),
    cpus=st.integers(1, 1024) | st.floats(0.05, 64),
    disk=st.none() | st.integers(2 * GB, 1 << 50),
    threads=st.integers(100, 4194304),
)


@given(HOSTS, st.integers(1, 3000))
def test_the_parts_are_consistent_and_no_more_than_the_host(host: Host, n: int) -> None:
    try:
        part = split(host.memory, host.swap, host.cpus, host.disk, n, threads=host.threads)
    except InvalidValue:
        return
    assert problems(part) == []
    assert part.bounds.keys() | part.others.keys() <= WHY.keys()
    most: dict[str, Any] = {name: limit for name, (_, limit) in part.bounds.items()}
    most |= part.others
    assert n * most["physpages"] * PAGE <= 0.9 * host.memory
    assert n * most["swappages"] * PAGE <= host.swap
    assert n * most["numproc"] <= host.threads
    assert n * most.get("cpus", 0) <= host.cpus
    assert n * most.get("disk", 0) <= (host.disk or 0)
    assert all(most[name] > 0 for name in most if name != "swappages")
    assert all(row.ok for row in oversold(host, [(veid, part, {}) for veid in range(1, n + 1)]))


# ---- is the host oversold -------------------------------------------------------------------------------------------

HOST = Host(memory=1000 * PAGE, swap=500 * PAGE, cpus=2, disk=10**9, threads=1000)
SOLD = asked(
    {
        "physpages": (0, 600),
        "swappages": (0, 200),
        "numproc": (400, 400),
        "vmguarpages": (300, UNLIMITED),
        "oomguarpages": (100, UNLIMITED),
    },
    {"cpus": 0.5, "disk": 4 * 10**8},
)
USED: dict[str, int | None] = {"physpages": 200, "oomguarpages": 90, "numproc": 30, "disk": 10**8, "numfile": 5000}
USED |= {"kmemsize": 7, "tcpsndbuf": 100, "tcprcvbuf": 20, "othersockbuf": 3, "dgramrcvbuf": None}


def totals(environments: list[tuple[int, Limits, dict[str, int | None]]], host: Host = HOST) -> dict[str, Any]:
    """Each row as KIND WHAT -> (total, of, ok)."""
    rows = oversold(host, environments)
    return {f"{row.kind} {row.what}": (row.total, row.of, row.ok) for row in rows}


def row(kind: str, what: str, *environments: tuple[int, Limits, dict[str, int | None]]) -> Sum:
    (found,) = (each for each in oversold(HOST, environments) if (each.kind, each.what) == (kind, what))
    return found


def test_one_ve_is_summed_up() -> None:
    assert totals([(101, SOLD, USED)]) == {
        "held memory": (200 * PAGE, 1000 * PAGE, True),
        "held memory and swap": (90 * PAGE + 130, 1500 * PAGE, True),
        "held processes": (30, 1000, True),
        "held disk": (10**8, 10**9, True),
        "guaranteed memory": (300 * PAGE, 1000 * PAGE, True),
        "limit memory": (600 * PAGE, 1000 * PAGE, True),
        "limit memory and swap": (800 * PAGE, 1500 * PAGE, True),
        "limit cpus": (0.5, 2, True),
        "limit processes": (400, 1000, True),
        "limit disk": (4 * 10**8, 10**9, True),
    }


def test_a_second_one_is_oversold() -> None:
    """Of memory, and of memory and swap; a stopped VE holds nothing, but will when it is started."""
    both = totals([(101, SOLD, USED), (102, SOLD, {})])
    assert {name for name, (_, _, ok) in both.items() if not ok} == {"limit memory", "limit memory and swap"}
    assert both["limit memory"][0] == 1200 * PAGE and both["held memory"][0] == 200 * PAGE
    found = row(LIMITED, "memory", (101, SOLD, USED), (102, SOLD, {}))
    assert (found.ratio, found.unlimited) == (1.2, ())
    assert found.why


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.kind} {check.what}")
def test_each_row_can_be_too_much(check: Any) -> None:
    bounds = {"physpages": (0, 501), "swappages": (0, 250), "numproc": (501, 501), "vmguarpages": (501, UNLIMITED)}
    much = asked(bounds, {"cpus": 1.1, "disk": 5 * 10**8 + 1})
    full: dict[str, int | None] = {"physpages": 501, "oomguarpages": 676, "numproc": 451, "disk": 45 * 10**7 + 1}
    assert row(check.kind, check.what, (1, much, full)).ok
    assert not row(check.kind, check.what, (1, much, full), (2, much, full)).ok


@pytest.mark.parametrize("what", ["memory", "memory and swap", "processes", "disk"])
def test_who_has_no_limit_may_have_all(what: str) -> None:
    found = row(LIMITED, what, (101, SOLD, {}), (102, asked(), {}))
    assert (found.unlimited, found.ok) == ((102,), False)
    assert found.total == row(LIMITED, what, (101, SOLD, {})).total + found.of
    alone = row(LIMITED, what, (102, asked(), {}))
    assert (alone.ratio, alone.ok) == (1, False)


def test_who_has_no_cap_has_a_weight() -> None:
    found = row(LIMITED, "cpus", (101, SOLD, {}), (102, asked(), {}))
    assert (found.total, found.unlimited, found.ok) == (0.5, (), True)


def test_a_guarantee_is_no_more_than_what_the_ve_may_have() -> None:
    """The higher one of the two counts, as memory.low and memory.min protect the same pages."""
    sold = SOLD._replace(bounds={**SOLD.bounds, "oomguarpages": Bound(UNLIMITED, UNLIMITED)})
    assert row(GUARANTEED, "memory", (101, sold, {})).total == 600 * PAGE
    sold = asked({"vmguarpages": (UNLIMITED, UNLIMITED)})
    assert row(GUARANTEED, "memory", (101, sold, {})).unlimited == (101,)


@pytest.mark.parametrize(
    ("bounds", "memory", "both"),
    [
        ({"privvmpages": (500, 700)}, 700, 700),  # all of it may be in memory, and none besides
        ({"privvmpages": (500, 700), "physpages": (0, 300)}, 300, 700),
        ({"physpages": (0, 300)}, 300, 800),  # and all of the host's swap
        ({"physpages": (0, 300), "swappages": (0, 100), "privvmpages": (9999, 9999)}, 300, 400),
    ],
)
def test_private_memory_bounds_memory_and_swap(bounds: dict[str, tuple[int, int]], memory: int, both: int) -> None:
    sold = asked(bounds)
    assert row(LIMITED, "memory", (101, sold, {})).total == memory * PAGE
    assert row(LIMITED, "memory and swap", (101, sold, {})).total == both * PAGE


def test_of_a_disk_that_is_not_known_nothing_is_said() -> None:
    assert not [name for name in totals([(101, SOLD, USED)], replace(HOST, disk=None)) if "disk" in name]


def test_nothing_of_nothing_is_well() -> None:
    """A host without disk space of its own to give, and VEs that take none."""
    found = {each.what: each for each in oversold(replace(HOST, disk=0), []) if each.kind == HELD}
    assert (found["disk"].ratio, found["disk"].ok) == (0, True)
    found = {each.what: each for each in oversold(replace(HOST, disk=0), [(101, SOLD, USED)]) if each.kind == HELD}
    assert (found["disk"].ratio, found["disk"].ok) == (float("inf"), False)


# ---- presets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets.NAMES)
def test_a_preset_is_consistent_and_enforced(name: str) -> None:
    settings = resolve(presets.load(name))
    assert problems(settings) == []
    assert is_vswap(settings)
    assert not settings.bounds.keys() & COUNTED, "what nothing limits would be refused"


def test_basic_is_openvzs() -> None:
    words = presets.load("basic")
    assert words == {
        "memory": "512M",
        "swap": "0",
        "processes": str(BASIC["numproc"][1]),
        "shmpages": "256M",
        "numpty": str(BASIC["numpty"][1]),
        "numsiginfo": str(BASIC["numsiginfo"][1]),
        "cpu_weight": "100",
    }


def test_presets_grow_by_four() -> None:
    light, basic, heavy = (resolve(presets.load(name)) for name in presets.NAMES)
    for name in ("physpages", "numproc", "shmpages", "numpty"):
        assert heavy.bounds[name][1] == 4 * basic.bounds[name][1] == 16 * light.bounds[name][1]
    assert heavy.others["cpu_weight"] == 4 * basic.others["cpu_weight"] == 16 * light.others["cpu_weight"]


def test_there_are_no_other_presets() -> None:
    directory = os.path.dirname(presets.__file__)
    assert {name for name in os.listdir(directory) if name.endswith(".toml")} == {f"{n}.toml" for n in presets.NAMES}
    with pytest.raises(InvalidValue, match=r"^cannot use preset 'basik': there is none$") as caught:
        presets.load("basik")
    assert caught.value.hint == "there are light, basic, heavy; a file of yours is given with its path: ./basik"


def test_a_preset_of_the_admins_own(tmp_path: Any) -> None:
    (tmp_path / "mine").write_text('[limits]\nmemory = "1G"\ncpus = 0.5\nprocesses = 100\n')
    assert presets.load(f"{tmp_path}/mine") == {"memory": "1G", "cpus": "0.5", "processes": "100"}
    with pytest.raises(InvalidValue, match=r"^cannot use preset .*/yours: No such file or directory$"):
        presets.load(f"{tmp_path}/yours")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[limits\n", "Expected"),
        (b"\xff", "'utf-8' codec"),
        (b"", r"it is not one table \[limits\]"),
        (b"limits = 5\n", r"it is not one table \[limits\]"),
        (b"name = 'x'\n[limits]\nmemory = '1G'\n", r"it is not one table \[limits\]"),
        (b"[limits]\nmemory = true\n", "limits.memory is not a string or a number"),
        (b"[limits]\nmemory = [1, 2]\n", "limits.memory is not a string or a number"),
        (b"[limits]\n'a b' = 1\n", "limits.a b is not a string or a number"),
        (b"[limits]\ncpu-weight = 5\n", "limits.cpu-weight has no '-'"),
    ],
)
def test_what_is_no_preset(content: bytes, why: str) -> None:
    with pytest.raises(BrokenConfig, match=f"^cannot read mine: {why}"):
        presets.parse(content, "mine")
