"""What may be asked for of what a VE may use, and what it comes to."""

from typing import Any

import pytest

from ve import beancounter, config, limits, options
from ve.amounts import BYTES, ITEMS, PAGE, PAGES, UNLIMITED
from ve.errors import BrokenConfig, InvalidValue
from ve.limits import Limits, resolve
from ve.model import Config

# OpenVZ's kernel/bc/beancounter.c, ub_rnames, less the dummies; with the units of its documentation.
OPENVZ = {
    "kmemsize": BYTES,
    "lockedpages": PAGES,
    "privvmpages": PAGES,
    "shmpages": PAGES,
    "numproc": ITEMS,
    "physpages": PAGES,
    "vmguarpages": PAGES,
    "oomguarpages": PAGES,
    "numtcpsock": ITEMS,
    "numflock": ITEMS,
    "numpty": ITEMS,
    "numsiginfo": ITEMS,
    "tcpsndbuf": BYTES,
    "tcprcvbuf": BYTES,
    "othersockbuf": BYTES,
    "dgramrcvbuf": BYTES,
    "numothersock": ITEMS,
    "dcachesize": BYTES,
    "numfile": ITEMS,
    "numiptent": ITEMS,
    "swappages": PAGES,
}


def test_the_table_has_every_resource_in_its_order() -> None:
    assert {row.name: row.unit for row in beancounter.RESOURCES} == OPENVZ
    assert [row.name for row in beancounter.RESOURCES] == list(OPENVZ)


def test_each_source_that_is_a_file_has_a_descriptor() -> None:
    sources = [
        getattr(row, column)
        for row in beancounter.RESOURCES
        for column in ("held", "maxheld", "failcnt", "barrier", "limit")
    ]
    parts = {part for source in sources for one in source.split(" or ") for part in one.split(" + ")}
    files = {part.partition(":")[0] for part in parts if beancounter.is_file(part)}
    assert files and {name.replace(".", "_") for name in files} <= vars(beancounter.Files).keys()


def test_the_words_for_a_type_checker_are_all() -> None:
    assert set(options.Words.__annotations__) == set(limits.NAMES)


def files(**asked: str) -> dict[str, int | str]:
    return resolve(asked).asked_files()


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({}, {}),
        ({"memory": "512M"}, {"memory.max": 512 << 20}),
        ({"memory": "unlimited"}, {}),
        ({"swap": "0"}, {"memory.swap.max": 0}),
        ({"processes": "200"}, {"pids.max": 200}),
        ({"numproc": "100:200"}, {"pids.max": 200}),
        ({"physpages": "0:131072"}, {"memory.max": 512 << 20}),
        ({"physpages": "100:200"}, {"memory.high": 100 * PAGE, "memory.max": 200 * PAGE}),
        ({"physpages": "200"}, {"memory.max": 200 * PAGE}),  # no warning at the wall, or nobody would reach it
        ({"swappages": "10:20"}, {"memory.swap.high": 10 * PAGE, "memory.swap.max": 20 * PAGE}),
        ({"privvmpages": "65536:69632"}, {"memory.high": 256 << 20, "memory.max": 272 << 20, "memory.swap.max": 0}),
        (
            {"privvmpages": "300", "physpages": "0:200", "swappages": "0:500"},
            {"memory.max": 200 * PAGE, "memory.swap.max": 100 * PAGE},
        ),
        ({"privvmpages": "300", "physpages": "0:400"}, {"memory.max": 300 * PAGE, "memory.swap.max": 0}),
        ({"vmguarpages": "50"}, {"memory.low": 50 * PAGE}),
        ({"vmguarpages": "50:60"}, {"memory.low": 50 * PAGE}),
        ({"oomguarpages": "50:unlimited"}, {"memory.min": 50 * PAGE}),
        ({"oom": "ve"}, {"memory.oom.group": 1}),
        ({"oom": "process"}, {}),
        ({"cpus": "0.5"}, {"cpu.max": "50000 100000"}),
        ({"cpus": "150%"}, {"cpu.max": "150000 100000"}),
        ({"cpu_weight": "300"}, {"cpu.weight": 300}),
        ({"cpus": "unlimited"}, {}),
        ({"cpuset": "0-1,4"}, {"cpuset.cpus": "0-1,4"}),
        ({"numtcpsock": "5:unlimited"}, {}),  # a barrier alone is a warning
    ],
)
def test_what_it_comes_to(asked: dict[str, str], wanted: dict[str, Any]) -> None:
    assert files(**asked) == wanted


def test_resource_limits() -> None:
    asked = {"lockedpages": "16", "numsiginfo": "256", "nofile": "1024"}
    assert resolve(asked).rlimits() == {
        "RLIMIT_MEMLOCK": 16 * PAGE,
        "RLIMIT_SIGPENDING": 256,
        "RLIMIT_NOFILE": 1024,
    }
    assert resolve({"lockedpages": "unlimited"}).rlimits() == {}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"memory": "512M", "physpages": "0:1"}, "cannot use both memory and physpages: they are the same"),
        ({"numproc": "5", "processes": "5"}, "cannot use both numproc and processes"),
        ({"memry": "1G"}, "cannot limit memry: there is no such resource"),
        ({"memory": "0"}, "no VE runs with none"),
        ({"numproc": "0"}, "no VE runs with none"),
        ({"numfile": "1000"}, "cannot limit numfile: it is only counted; no stock kernel counts the open files"),
        ({"dcachesize": "1000"}, "it is only counted; no kernel without OpenVZ's patch limits it"),
        ({"kmemsize": "1000"}, "it is only counted; cgroup v2 limits it only as a part of physpages"),
        ({"memory": "10P"}, "cannot use memory '10P': P is for what is counted in pages"),
        ({"memory": "10X"}, "it is not a number with B, K, M, G or T behind it"),
        ({"physpages": "10X"}, "it is not a number with B, K, M, G, T or P behind it"),
        ({"physpages": "1.5G"}, "cannot use physpages '1.5G': it is not a whole number"),
        ({"memory": "512M:1G"}, "a barrier and a limit go by the name of the beancounter"),
        ({"processes": "5:6"}, "a barrier and a limit go by the name of the beancounter"),
        ({"tcpsndbuf": "1:2"}, "cannot limit tcpsndbuf: it is only counted"),
        ({"cpus": "0"}, "cannot use cpus '0'"),
        ({"cpus": "-1"}, "cannot use cpus"),
        ({"cpus": "nan"}, "cannot use cpus"),
        ({"cpu_weight": "0"}, "it is not in 1..10000"),
        ({"cpu_weight": "10001"}, "it is not in 1..10000"),
        ({"cpu_weight": "5k"}, "it is a count, which has no suffix"),
        ({"cpuset": "1-0"}, "it is not a list of CPUs"),
        ({"cpuset": "a"}, "it is not a list of CPUs"),
        ({"cpuset": "0,"}, "it is not a list of CPUs"),
        ({"io_read": "0"}, "nothing can be done with none"),
        ({"nofile": "0"}, "nothing can be done with none"),
        ({"oom": "all"}, "it is not process or ve"),
        ({"numproc": "2:1"}, "its barrier 2 is above its limit 1"),
        ({"memory": ""}, "a number is missing"),
    ],
)
def test_what_is_refused(asked: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidValue, match=why):
        resolve(asked)


@pytest.mark.parametrize(
    ("asked", "cure"),
    [
        ({"memory": "512M:1G"}, "--physpages 512M:1G"),
        ({"processes": "50:60"}, "--numproc 50:60"),
        ({"physpages": "1.5G"}, "1536M"),
    ],
)
def test_the_cure_is_what_to_type(asked: dict[str, str], cure: str) -> None:
    with pytest.raises(InvalidValue) as raised:
        resolve(asked)
    assert raised.value.hint == cure


@pytest.mark.parametrize("text", ["unlimited", "0.5", "2"])
def test_what_would_ask_for_the_same(text: str) -> None:
    words = resolve({"cpus": text}).words()
    assert resolve(words) == resolve({"cpus": text})


@pytest.mark.parametrize(
    ("asked", "warnings"),
    [
        ({"numproc": "50:60"}, {"numproc": 50}),
        ({"numproc": "60"}, {}),  # no warning at the wall
        ({"numfile": "60"}, {"numfile": 60}),  # there is no wall
        ({"numfile": "50:60"}, {"numfile": 50}),
        ({"numfile": "50:unlimited"}, {"numfile": 50}),
        ({"numfile": "0:60", "physpages": "0:5", "vmguarpages": "5"}, {}),
    ],
)
def test_barriers_that_are_a_warning(asked: dict[str, str], warnings: dict[str, int]) -> None:
    assert resolve(asked, account_only=True).warnings() == warnings


@pytest.mark.parametrize(
    ("asked", "met", "crossed"),
    [
        ({}, "physpages", "physpages"),
        ({"physpages": "5:10"}, "physpages", "physpages"),
        ({"privvmpages": "5:10"}, "privvmpages", "privvmpages"),
        ({"privvmpages": "5:10", "physpages": "4:20"}, "privvmpages", "physpages"),
        ({"privvmpages": "5:10", "physpages": "0:10"}, "physpages", "privvmpages"),
    ],
)
def test_whose_limit_and_barrier_memory_has(asked: dict[str, str], met: str, crossed: str) -> None:
    found = resolve(asked)
    assert [name for name in limits.MEMORY if found.is_met(name)] == [met]
    assert [name for name in limits.MEMORY if found.is_crossed(name)] == [crossed]
    assert found.is_met("numproc") and found.is_crossed("numproc")


def test_what_is_left_without_a_controller() -> None:
    asked = resolve({"memory": "1G", "numproc": "5", "io_write": "5M", "cpus": "1", "numsiginfo": "5", "disk": "5G"})
    assert {*asked.without(["memory", "io"]).words()} == {"numproc", "cpus", "numsiginfo", "disk"}
    assert asked.without([]) == asked


def test_which_controllers_it_takes() -> None:
    assert resolve({"io_write": "5M", "memory": "1G", "numsiginfo": "5"}).controllers == {"io", "memory"}
    assert limits.of_controller({"io_write": "5M", "iops": "5", "memory": "1G"}, "io") == ["io_write", "iops"]


def test_the_nearest_name_is_named() -> None:
    with pytest.raises(InvalidValue) as raised:
        resolve({"numprocs": "5"})
    assert raised.value.hint == "did you mean numproc?"


def test_what_is_only_counted_is_taken_where_that_is_said() -> None:
    assert resolve({"numfile": "1000"}, account_only=True).limit("numfile") == 1000


def test_what_was_asked_for_before_gives_way_to_what_is_the_same() -> None:
    before = {"memory": "512M", "cpus": "1"}
    assert limits.merged(before, {"physpages": "0:5"}) == {"physpages": "0:5", "cpus": "1"}
    assert limits.merged(before, {"memory": ""}) == {"cpus": "1"}
    assert limits.merged(before, {"physpages": ""}) == {"cpus": "1"}


@pytest.mark.parametrize(
    ("value", "text"),
    [(200, "200"), ((0, 131072), "0:131072"), ("512M", "512M"), (0.5, "0.5"), ((5, "unlimited"), "5:unlimited")],
)
def test_values_from_a_program(value: object, text: str) -> None:
    assert limits.words({"numproc": value}) == {"numproc": text}


@pytest.mark.parametrize("value", [True, None, [1, 2], b"5"])
def test_what_is_no_value(value: object) -> None:
    with pytest.raises(InvalidValue, match="cannot use numproc"):
        limits.words({"numproc": value})


def test_of_which_controller_a_limit_is() -> None:
    asked = {"memory": "1G", "privvmpages": "5", "numproc": "5", "shmpages": "5", "cpus": "1"}
    assert limits.of_controller(asked, "memory") == ["memory", "privvmpages"]
    assert limits.of_controller(asked, "pids") == ["numproc"]


def test_a_conf_file_keeps_them() -> None:
    settings = Config(101, "busybox:1", limits={"memory": "512M", "numfile": "5"}, account_only=True)
    assert config.parse(config.dump(settings), 101, "x") == settings


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ('limits = {memory = "1X"}', "line 3: key limits.memory: cannot use memory '1X'"),
        ('[limits]\nnumprocs = "5"', "line 4: key limits.numprocs: cannot limit numprocs"),
        ("[limits]\nnumproc = 5", "line 4: key limits.numproc: must be a string"),
        ('[limits]\nnumfile = "5"', "cannot limit numfile: it is only counted"),
        ('[limits]\nmemory = "1G"\nphyspages = "0:5"', "cannot use both memory and physpages"),
    ],
)
def test_a_conf_file_that_is_wrong(table: str, why: str) -> None:
    with pytest.raises(BrokenConfig, match=why):
        config.parse(f'version = 1\ntemplate = "busybox:1"\n{table}\n'.encode(), 101, "x")


def test_nothing_asked_for_is_unlimited() -> None:
    assert {Limits().limit(row.name) for row in beancounter.RESOURCES} == {UNLIMITED}
    assert Limits().bound("vmguarpages").barrier == 0
