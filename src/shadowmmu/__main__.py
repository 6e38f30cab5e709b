"""`python -m shadowmmu`: the command `shadowmmu`."""

from shadowmmu.cli.main import main

if __name__ == "__main__":
    main()
