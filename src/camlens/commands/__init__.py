"""The command line: one module a command. Heavy imports are inside the functions, so that `camlens --help` is quick."""
