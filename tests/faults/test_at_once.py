"""Twenty processes that create, start, enter, stop, list and destroy the same few VEs at random agree with a model.

VE_TEST_SECONDS is for how long (120), VE_TEST_SEED chooses what they do.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ve
from tests.faults.history import ABSENT, MODEL, Operation, agree
from tests.faults.worker import VEIDS
from tests.nest import ROOT
from tests.verbs import witness
from ve import errors

pytestmark = pytest.mark.any_kernel

PROCESSES = 20
SECONDS = os.environ.get("VE_TEST_SECONDS", "120")
SEED = int(os.environ.get("VE_TEST_SEED") or random.randrange(1 << 32))
# What says nothing of the order: whoever waited too long, and a command whose VE was stopped while it ran.
NO_WORD = {("exec", "CalledProcessError"), ("exec", "Error"), *((verb, "Locked") for verb in MODEL)}


@given(st.lists(st.sampled_from([*MODEL]), max_size=30))
def test_what_is_done_one_after_the_other_agrees(verbs: list[str]) -> None:
    state, done = ABSENT, []
    for at, verb in enumerate(verbs):
        outcome, state = MODEL[verb][state]
        done.append(Operation(at, at + 0.5, verb, outcome))
    assert agree(done)


@pytest.mark.parametrize(
    ("operations", "agrees"),
    [
        ([Operation(0, 2, "create", "ok"), Operation(1, 3, "start", "ok")], True),
        ([Operation(0, 2, "start", "ok"), Operation(1, 3, "create", "ok")], True),
        ([Operation(0, 1, "start", "ok"), Operation(2, 3, "create", "ok")], False),
        ([Operation(0, 1, "create", "ok"), Operation(0, 1, "create", "ok")], False),
        ([Operation(0, 1, "create", "ok"), Operation(2, 4, "destroy", "ok"), Operation(3, 5, "start", "ok")], False),
    ],
)
def test_the_model(operations: list[Operation], agrees: bool) -> None:
    assert agree(operations) is agrees


@pytest.mark.timeout(3600)
def test_twenty_at_once(host: ve.Host, host_dir: Path, tmp_path: Path) -> None:
    host.create(VEIDS.start, template="busybox", name="first").destroy()  # so that all directories are there
    before = witness.everything(host_dir)
    seeds = random.Random(SEED).sample(range(1 << 32), PROCESSES)
    with contextlib.ExitStack() as stack:  # what they say goes to files: a pipe that nobody reads yet would stop them
        workers = []
        for seed in seeds:
            out, err = (stack.enter_context(open(tmp_path / f"{seed}.{name}", "w")) for name in ("out", "err"))
            command = [sys.executable, "-m", "tests.faults.worker", str(host_dir), str(seed), SECONDS]
            workers.append(stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)))
    for veid in VEIDS:
        with contextlib.suppress(errors.NotFound):
            env = host.get(veid)
            with contextlib.suppress(errors.NotRunning):
                env.stop(fast=True)
            env.destroy()
    said = [[(tmp_path / f"{seed}.{name}").read_text() for name in ("out", "err")] for seed in seeds]
    assert [err for _, err in said if err] == [], f"seed {SEED}"
    assert [worker.returncode for worker in workers] == [0] * PROCESSES
    rows = [json.loads(line) for out, _ in said for line in out.splitlines()]
    for veid in VEIDS:
        done = [Operation(*row[1:]) for row in rows if row[0] == veid and row[3] in MODEL]
        told = [each for each in done if (each.verb, each.outcome) not in NO_WORD]
        assert agree(told), (f"seed {SEED}, VE {veid}", sorted(told))
        assert witness.left_of(host_dir, veid) == []
    assert witness.everything(host_dir) == before
    print(f"{len(rows)} operations in {SECONDS} s, {sum(row[4] == 'ok' for row in rows)} of them done, seed {SEED}")
