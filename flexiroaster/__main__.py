"""Entry point of `python -m flexiroaster`."""

from flexiroaster.cli import main

if __name__ == "__main__":
    main()
