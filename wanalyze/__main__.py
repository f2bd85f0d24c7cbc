"""`python -m wanalyze`."""

from wanalyze.cli import main

if __name__ == "__main__":
    main()
