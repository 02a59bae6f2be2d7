"""What all rows stand on: ve, the floor and the peers in one work directory, each made when it is first asked for."""

import contextlib
from functools import cached_property
from pathlib import Path

from bench import floor
from bench.crowd import Crowd, of_lxc, of_podman, of_ve
from bench.floor import Floor
from bench.ours import Ours
from bench.peers import Peers


class Ground:
    """rounds: how often each way is taken at each pace; few, many: how many containers a crowd has."""

    def __init__(self, work: Path, rounds: int, few: int, many: int) -> None:
        self.work, self.rounds, self.few, self.many = work, rounds, few, many
        self.programs = floor.build(work / "programs")
        self.ours = Ours(work, self.programs)
        self.held = contextlib.ExitStack()  # what is to be ended at the end of all

    @cached_property
    def floor(self) -> Floor:
        return Floor(self.work, self.programs, self.ours.init)

    @cached_property
    def peers(self) -> Peers:
        return Peers(self.work, self.programs, self.ours.init, self.ours.idle)

    @cached_property
    def of_ve(self) -> Crowd:
        return self.held.enter_context(of_ve(self.ours))

    @cached_property
    def of_lxc(self) -> Crowd:
        return of_lxc(self.peers)

    @cached_property
    def of_podman(self) -> Crowd:
        return of_podman(self.peers)
