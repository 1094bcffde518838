"""`python -m reverie.cli`: the command line without its script, as `torchrun -m reverie.cli sample ...` needs it."""

from reverie.cli import main

if __name__ == "__main__":
    main()
