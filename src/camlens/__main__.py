"""`python -m camlens`, which `torchrun -m camlens` needs."""

from camlens.commands.app import main

if __name__ == "__main__":
    main()
