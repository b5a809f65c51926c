"""The background of an executor: one small class a duty."""
