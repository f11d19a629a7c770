"""A model of the GPU kernels' time, from compiled code and the chips' published rates; nothing in it is measured."""
