"""`python -m durable_sync` is the same as `durable-sync`."""

from durable_sync.cli import main

if __name__ == "__main__":
    main()
