"""The one error the demo shows to its user."""

__all__ = ["DemoError"]


class DemoError(Exception):
    """The demo can't run; the message is one line that says why."""
