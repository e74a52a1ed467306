"""`python -m gateway` is `pg-gateway`."""

import gc

# Some ten thousand objects that live for ever are made on the way to the first answer; `serve` turns it on again.
gc.disable()

from gateway.cli import main  # noqa: E402 - the collector is off before anything is loaded

if __name__ == "__main__":
    main()
