"""Who calls the library: some program, or the ve command.

The command is small, has no threads while it starts something, and holds nobody's secrets.  So its far sides are clones
of itself (ve/interpreter.py), and it need not start an interpreter for them.
"""

is_the_command = False
