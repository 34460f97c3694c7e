"""Which modules pytest does not look into for examples: those whose own library is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["fastadam/interop/torch.py", "fastadam/interop/_torch.py"]
