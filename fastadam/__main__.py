"""`python -m fastadam info` and `python -m fastadam warmup`."""

import argparse
import contextlib
import sys

from fastadam._cache import kept_in_package, not_kept, user_place
from fastadam.environment import info, warmup


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser(prog="python -m fastadam", description=__doc__)
    parser.add_argument("command", choices=("info", "warmup"), help="describe the environment, or compile every kernel")
    parser.add_argument(
        "--into-package",
        action="store_true",
        help="with warmup: keep the kernels in the installed package, for every user of it",
    )
    arguments = parser.parse_args()
    if arguments.command == "warmup":
        _warm_up(arguments.into_package)
    elif arguments.into_package:
        parser.error("--into-package is an option of warmup")
    else:
        for name, value in info().items():
            print(f"{name:>16}  {value}")


def _warm_up(into_package: bool) -> None:
    with kept_in_package() if into_package else contextlib.nullcontext(user_place()) as place:
        if into_package and (obstacle := place.obstacle()):
            sys.exit(f"Nothing was compiled, since no kernel can be kept in the package: {obstacle}")
        seconds = warmup()
    if reason := not_kept():
        sys.exit(f"Every kernel was compiled, in {seconds:.1f} s, but not every one is cached: {reason}")
    print(f"Every kernel is compiled and cached: {seconds:.1f} s; in {place.folder}")


if __name__ == "__main__":
    main()
