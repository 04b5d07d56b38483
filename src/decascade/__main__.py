"""`python -m decascade`."""

from decascade.cli import main

if __name__ == "__main__":
    main()
