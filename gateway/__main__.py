"""`python -m gateway` is `pg-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
