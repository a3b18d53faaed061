"""`python -m camlens`, which `torchrun -m camlens` needs."""

from camlens.cli import main

if __name__ == "__main__":
    main()
