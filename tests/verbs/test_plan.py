"""ve plan: parts of this host, presets, and whether it is oversold."""

import json
import os
import tomllib
from pathlib import Path

import pytest

import ve
from tests.conftest import cgroup_root
from tests.verbs import commandline, witness
from tests.verbs.conftest import Make


def ram() -> int:
    """Bytes, as the kernel says."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def conf(host_dir: Path, veid: int) -> dict[str, str]:
    return tomllib.loads((host_dir / f"conf/{veid}.toml").read_text()).get("limits", {})  # type: ignore[no-any-return]


def test_a_part_is_a_preset(host_dir: Path, make: Make, tmp_path: Path) -> None:
    text = commandline.output(host_dir, "plan", "--split", 2)
    part = tomllib.loads(text)["limits"]
    pages = int(part["physpages"].removeprefix("0:"))
    assert ram() * 0.8 < 2 * pages * os.sysconf("SC_PAGE_SIZE") < ram() * 0.91
    assert json.loads(commandline.output(host_dir, "plan", "--split", 2, "--json")) == part
    (tmp_path / "half.toml").write_text(text)
    env = make(preset=str(tmp_path / "half.toml"), account_only=True)
    assert conf(host_dir, env.veid) == part


@pytest.mark.any_kernel
def test_an_option_goes_before_a_preset(host_dir: Path, make: Make) -> None:
    env = make(account_only=True)
    said = commandline.run(
        host_dir, "set", env.veid, "--config", "light", "--numproc", "77", "--account-only", "--save"
    )
    assert said.returncode == 0, said
    limits = conf(host_dir, env.veid)
    assert limits["numproc"] == "77"
    assert limits["memory"] == "128M"
    assert "processes" not in limits


@pytest.mark.any_kernel
def test_what_is_no_preset(host_dir: Path, make: Make, tmp_path: Path) -> None:
    env = make()
    (tmp_path / "broken").write_text("memory = 5")
    for name, code in (("lite", 20), (str(tmp_path / "missing"), 20), (str(tmp_path / "broken"), 14)):
        done = commandline.run(host_dir, "set", env.veid, "--config", name, "--save")
        assert done.returncode == code, done
    witness.refused(host_dir, 20, "cannot plan: one of --split and --check says what", "plan")
    done = commandline.run(host_dir, "plan", "--split", "0")
    assert done.returncode == 20
    done = commandline.run(host_dir, "plan", "--split", "10000000")
    assert done.returncode == 20 and "at most" in done.stderr


@pytest.mark.any_kernel
def test_what_is_oversold_and_inconsistent_is_said(host_dir: Path, make: Make) -> None:
    half = ram() * 6 // 10
    first, second = (
        make(memory=half, swap=0, vmguarpages=(half // 4096 * 6 // 5, "unlimited"), account_only=True) for _ in "12"
    )
    done = commandline.run(host_dir, "plan", "--check")
    assert done.returncode == 1, done
    words = " ".join(done.stdout.split())
    for env in (first, second):
        assert f"error {env.veid}: vmguarpages" in words
    assert "oversold limit memory:" in words
    found = json.loads(commandline.run(host_dir, "plan", "--check", "--json").stdout)
    [memory] = [each for each in found["sums"] if (each["kind"], each["what"]) == ("limit", "memory")]
    assert memory["total"] >= 2 * half // 4096 * 4096  # or all of it, where nothing keeps them to that
    assert not memory["ok"]
    assert {each["veid"] for each in found["problems"]} == {first.veid, second.veid}


def test_a_host_with_room_is_well_and_what_nothing_keeps_is_no_limit(
    host_dir: Path, make: Make, host: "ve.Host"
) -> None:
    env = make(numproc="50:60", memory="64M", swap="0", account_only=True)
    found = json.loads(commandline.run(host_dir, "plan", "--check", "--json").stdout)
    assert found["problems"] == []
    [memory] = [each for each in found["sums"] if (each["kind"], each["what"]) == ("limit", "memory")]
    kept = "memory" in (cgroup_root() / "cgroup.controllers").read_text().split()
    assert (memory["ok"], env.veid in memory["unlimited"]) == (kept, not kept)
    if kept:
        assert memory["total"] == 64 << 20
