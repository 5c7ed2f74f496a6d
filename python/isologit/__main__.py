"""python -m isologit: the command."""

from isologit import _command

_command.main()
