"""Which modules pytest looks for examples in."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("numba_cuda") else ["fastadam/cuda/*"]  # these need the extra `cuda`
