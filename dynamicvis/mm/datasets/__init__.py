"""Data sets for OpenMMLab configs, in the layouts that their authors publish; a module a task."""
