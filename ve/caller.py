"""Who calls the library: some program, or the ve command.

The command is small, has no threads while it starts something, and has no more in its memory than it was typed with and
has read for its one verb.  So its far sides are clones of itself (ve/interpreter.py), and no interpreter is started.
"""

is_the_command = False
