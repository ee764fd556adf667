"""How the gateway starts itself again: the argument list of one of its own processes.

In: a sub-command. Out: an argument list whose process shows as `… gateway worker 0 …` in its command line. Called by
the supervisor for its children, and for its own second start without provider credentials.
"""

import sys
from pathlib import Path

_WITHOUT_SCRIPT = "import sys; sys.argv.pop(0); from control.cli import main; main()"


def gateway(*arguments: str) -> tuple[str, ...]:
    """The argument list of `gateway ARGUMENTS…`, run by this interpreter."""
    for script in (Path(sys.argv[0]), Path(sys.executable).with_name("gateway")):
        if script.name == "gateway" and script.is_file():
            return (sys.executable, str(script.absolute()), *arguments)
    # Not installed, or run as `python -m control.cli`: the name goes where the script's path would be.
    return (sys.executable, "-c", _WITHOUT_SCRIPT, "gateway", *arguments)
