"""The command line: ``dynamicvis``, and ``rio dynamicvis``."""
