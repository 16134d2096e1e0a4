"""Tasks, optimizers, schedules, and the run from a configuration to its results.

Data reaches this room only as `iwin.batch.Batch` and through the module that the configuration names.
"""
