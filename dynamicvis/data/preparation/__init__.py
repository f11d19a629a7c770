"""From a data set as published to what the configs read: ``dynamicvis prepare``, a module a data set."""
