"""Programs that may hang in the kernel, where not even SIGKILL ends them: nobody waits for those for ever."""

import contextlib
import subprocess
from typing import Any


def wait(process: "subprocess.Popen[Any]", seconds: float | None, killed: float) -> int:
    """Its code; TimeoutExpired after so many seconds.

    Then, and on any other exception, it is killed, and has killed seconds to end: nobody waits longer.
    """
    try:
        return process.wait(seconds)
    except BaseException:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(killed)
        raise
