"""Data that is not OpenMMLab's: preparation of data sets, readers, and the bridge to torchgeo."""
