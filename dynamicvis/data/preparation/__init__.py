"""From a data set as published to what the configs read: ``tools/prepare_data.py``, a module a data set."""
